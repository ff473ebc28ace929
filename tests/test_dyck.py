"""Bounded brackets: the sampler, the entropy that is left, and the balance condition."""

import math
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.losses import consistency, next_token
from lm.models import build
from lm.models.reader import normalised, read
from lm.report.pictures import draw
from lm.strict import ConfigError
from tasks.formal.dyck import study as dyck_study
from tasks.formal.dyck.balance import attention, by_hand, canonical, closing_accuracy, variation, violation
from tasks.formal.dyck.brackets import (
    BRACKETS,
    END,
    FARTHEST,
    FORMS,
    PAD,
    START,
    SURE,
    WIDTH,
    Dyck,
    balanced,
    dyck_balanced_cpu,
    dyck_two_layer_cpu,
    entropy,
    measure,
    pump,
    rising,
    walk,
)
from tasks.formal.dyck.study import DRAWN, Reading, inserted, maps_as_figures, pumping, summary

TASK = Dyck(length=28, longest=400, form="pairs")


def drawn(task, count, length=None, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    if length is None:
        return jax.jit(jax.vmap(lambda key: task.sample(key, task.length)))(keys)
    return jax.jit(jax.vmap(lambda key: task.sample_test(key, length)))(keys)


def test_prefixes_match_stay_within_the_depth_and_follow_their_law():
    bits = jax.random.bits(jax.random.key(0), (300, 100, 2))
    tokens, depths = jax.vmap(lambda b: walk(b, jnp.broadcast_to(rising(4), (100, 5)), 2))(bits)
    opened = Counter()
    for row, levels in zip(np.asarray(tokens).tolist(), np.asarray(depths).tolist(), strict=True):
        assert measure(row, 2) == levels and max(levels) <= 4
        for token, level in zip(row, levels, strict=True):
            opens = token < BRACKETS + 2
            opened[level - opens, opens] += 1
    assert (0, False) not in opened and (4, True) not in opened
    for height in (1, 2, 3):
        count = opened[height, True] + opened[height, False]
        assert opened[height, True] == pytest.approx(count / 2, abs=4 * math.sqrt(count) / 2)
    # The heights of a walk that is long settle at 1/8, 1/4, 1/4, 1/4, 1/8.
    late = Counter((np.asarray(depths)[:, 50:] - (np.asarray(tokens)[:, 50:] < BRACKETS + 2)).ravel().tolist())
    for height, share in enumerate((1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8)):
        assert late[height] / late.total() == pytest.approx(share, abs=0.02)


def test_strings_and_entropy_are_counted_exactly():
    assert [sum(1 for _ in balanced(pairs, 2, 4)) for pairs in (1, 2, 3, 4, 5)] == [2, 8, 40, 224, 1312]
    assert all(measure(string, 2) for string in balanced(3, 2, 4))
    assert entropy(28, 2, 4) == pytest.approx(0.8788, abs=5e-5)
    assert entropy(10_000, 2, 4) == pytest.approx(math.log(2) * (1 / 8 + 3 / 4 * 1.5), abs=1e-4)


def test_a_pumped_string_is_balanced_and_changes_nothing_that_follows():
    tokens, depths = jax.vmap(lambda key: pump(key, 2, 4))(jax.random.split(jax.random.key(1), 50))
    lengths = set()
    for row, levels in zip(np.asarray(tokens).tolist(), np.asarray(depths).tolist(), strict=True):
        assert measure(row, 2) == levels and row.count(BRACKETS) + row.count(BRACKETS + 1) == 5
        lengths.add(levels.index(max(levels)))
    assert len(lengths) >= 2  # the pair is not always on top
    batch = drawn(replace(TASK, pumped=True), 20)
    assert (batch.info["same"][:, -27:] == batch.inputs[:, 1:]).all()


def test_weights_by_hand_close_every_bracket_at_every_length_with_uniform_attention():
    config, params = by_hand(TASK)
    for length in (28, 400):
        batch = drawn(TASK, 50, length)
        logits = jax.jit(build(config).apply)(params, batch).logits
        assert closing_accuracy(TASK, logits, batch.targets, batch.info["closes"], SURE) == 1.0
    batch = drawn(TASK, 50, 400)
    assert violation(TASK, config, params) == 0.0
    spoiled = jax.tree.map(lambda x: x, params)
    spoiled["blocks"]["value"]["kernel"] = params["blocks"]["value"]["kernel"].at[0, 1].mul(1.2)
    assert violation(TASK, config, spoiled) > 0.01
    logits = jax.jit(build(config).apply)(spoiled, batch).logits
    assert closing_accuracy(TASK, logits, batch.targets, batch.info["closes"], SURE) < 1.0


def test_whole_strings_are_those_of_the_length_by_the_law_of_the_automaton():
    task = Dyck(length=6, longest=12, whole=True)
    found = Counter()
    for row in np.asarray(drawn(task, 20_000).targets).tolist():
        string = row[: row.index(END)]
        assert row[len(string) + 1 :] == [PAD] * (6 - len(string)) and measure(string, 2) is not None
        found[tuple(string)] += 1
    # Each bracket at height 1..3 halves, an opening one halves again; one ends a string at height 0 by a half.
    law = {}
    for string in (s for pairs in (1, 2, 3) for s in balanced(pairs, 2, 4)):
        depths = measure(string, 2)
        inner = sum(d - (t < BRACKETS + 2) not in (0, 4) for t, d in zip(string, depths, strict=True))
        again = sum(d == 1 and t < BRACKETS + 2 for t, d in zip(string, depths, strict=True)) - 1
        law[string] = 0.5 ** (len(string) / 2 + inner + again)
    assert set(found) == set(law)
    for string, weight in law.items():
        share = weight / sum(law.values())
        assert found[string] == pytest.approx(20_000 * share, abs=5 * math.sqrt(20_000 * share)), string


def test_features_say_of_a_token_what_a_perfect_first_layer_knows():
    tokens, depths = jnp.array([4, 5, 7, 6]), jnp.array([1, 2, 2, 1])  # ( [ ] )
    read_by = {form: np.asarray(Dyck(form=form).read_all(tokens, depths)) for form in FORMS}
    assert read_by["tokens"].tolist() == [START, 4, 5, 7, 6]
    assert read_by["pairs"].argmax(1).tolist() == [0, 1 + 0, 1 + 4 + 1, 1 + 12 + 1, 1 + 8 + 0]
    for form in ("sums", "angles", "bare", "placed"):
        assert read_by[form][:, :8].tolist() == np.eye(8)[[START, 4, 5, 7, 6]].tolist()
    assert read_by["sums"][:, 8:].tolist() == [[0, 0, 0, 0], *np.eye(4)[[0, 1, 1, 0]].tolist()]
    tangents = read_by["angles"][:, 9] / read_by["angles"][:, 8]
    np.testing.assert_allclose(tangents, [0, 1 / 5, 2 / 4, 2 / 4, 1 / 5], rtol=1e-5)
    assert read_by["bare"].shape == (5, WIDTH) and not read_by["bare"][:, -1].any()
    np.testing.assert_allclose(read_by["placed"][:, -1] * FARTHEST, range(5), rtol=1e-5)
    for form in FORMS:
        task = Dyck(length=12, longest=20, form=form, pumped=True)
        batch = drawn(task, 3)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, atol=1e-6), batch, task.sample(
            jax.random.split(jax.random.key(0), 3)[0], 12))  # fmt: skip
        prefix = 10 / FARTHEST * (np.arange(task.train_length) > 0)[:, None] * (form == "placed")
        rest, inputs = np.delete(batch.info["same"], np.arange(1, 11), axis=1), np.asarray(batch.inputs, float)
        inputs[..., -1:] += prefix if form != "tokens" else 0
        np.testing.assert_allclose(rest, inputs, atol=1e-6)


def test_balance_is_what_makes_predictions_equal_behind_a_balanced_string():
    config, params = by_hand(TASK)
    batch = drawn(replace(TASK, pumped=True), 20)
    loss, metrics = consistency(build(config).apply, params, batch, None, weight=0.5)
    assert metrics["change"].value < 1e-9
    random = build(config).init(jax.random.key(0))
    loss, metrics = consistency(build(config).apply, random, batch, None, weight=0.5)
    plain, _ = next_token(build(config).apply, random, batch, None)
    assert metrics["change"].value > 1e-3 and loss == pytest.approx(
        float(plain + 0.5 * metrics["change"].value), rel=1e-5
    )
    assert metrics["loss"].value == pytest.approx(float(loss), rel=1e-6)


def test_a_pair_inserted_anywhere_moves_the_direction_of_random_weights_and_not_of_those_by_hand():
    config, params = by_hand(TASK)
    random = build(config).init(jax.random.key(0))
    string, levels = [4, 5, 7, 5], [1, 2, 2, 2]  # ( [ ] [
    for place, kind in ((p, k) for p in range(5) for k in range(2)):
        depth = [0, 1, 2, 1, 2][place] + 1
        more = (
            [*string[:place], 4 + kind, 6 + kind, *string[place:]],
            [*levels[:place], *[depth] * 2, *levels[place:]],
        )
        for weights, same in ((params, True), (random, False)):
            both = []
            for tokens, depths in ((string, levels), more):
                features = TASK.read_all(jnp.array(tokens), jnp.array(depths))[None]
                attention_NBLL, values_NBLD = read(config, weights, features)[1]
                both.append(normalised(attention_NBLL[0, 0, -1:] @ values_NBLD[0, 0]))
            # The query behind a pair at the end is its closing bracket; uniform attention does not ask.
            assert (np.abs(both[0] - both[1]).max() <= 1e-5) == same


def test_inserted_pairs_are_balanced_and_do_not_move_the_rest():
    task = Dyck(length=12, longest=20, form="pairs")
    for depth, pairs in ((0, 3), (3, 0), (3, 5)):
        tokens, depths = inserted(task, depth, pairs)
        assert tokens.shape == (DRAWN, 8 + 2 * pairs)
        for row, levels in zip(np.asarray(tokens).tolist(), np.asarray(depths).tolist(), strict=True):
            assert measure(row, 2) == levels
        kept = np.delete(tokens, np.arange(depth, depth + 2 * pairs), axis=1)
        assert (kept == inserted(task, depth, 0)[0]).all()
    config, params = by_hand(task)
    found = pumping(Reading(task, config, params))
    assert all(value == 1 for name, value in found.items() if name.startswith("accuracy"))
    assert all(value < 1e-6 for name, value in found.items() if name.startswith("change"))
    random = pumping(Reading(task, config, build(config).init(jax.random.key(0))))
    assert random["change/pairs=128"] > 1e-3 and random["change/pairs=0"] == 0


def test_attention_maps_differ_by_their_squared_distance():
    a, b = jnp.eye(3), jnp.ones((3, 3)) / 3
    assert variation([a, b]) == pytest.approx(2.0) and variation([a, a, b]) == pytest.approx(4 / 3)


def test_a_stream_of_layers_is_a_small_gpt():
    config = dyck_two_layer_cpu().model
    params = build(config).init(jax.random.key(0))
    task = Dyck(form="placed")
    map_TT = attention(task, config, params)
    assert map_TT.shape == (17, 17) and np.allclose(map_TT.sum(1), 1, atol=1e-5) and not np.triu(map_TT, 1).any()
    assert set(maps_as_figures("a", map_TT)) >= {"a/0,0", "a/16,16"} and "a/0,1" not in maps_as_figures("a", map_TT)
    # With nothing written to it, the stream hands features to the head as they are.
    silent = jax.tree.map(lambda x: x, params)
    for path in (silent["blocks"]["output"], silent["blocks"]["feedforward"]["down"]):
        path["kernel"] = jnp.zeros_like(path["kernel"])
    features = canonical(task)[None]
    np.testing.assert_allclose(read(config, silent, features)[0].features, features, atol=1e-6)
    spoiled = features.at[0, 9].add(1.0)
    before, after = (np.asarray(read(config, params, x)[0].logits)[0] for x in (features, spoiled))
    assert np.array_equal(before[:9], after[:9]) and not np.allclose(before[9:], after[9:])


def test_a_population_is_summed_up_by_the_figures_of_the_claims():
    one = ("pairs", "sums", "angles")
    plain = {f: {"accuracy@28": [1.0], "accuracy@300": [0.8 + i / 100], "violation": [0.9 - i / 100]}
             for i, f in enumerate(one)}  # fmt: skip
    held = {f"{f} balanced": {"accuracy@28": [0.9], "accuracy@300": [0.95 + i / 100], "violation": [0.2 - i / 100]}
            for i, f in enumerate(one)}  # fmt: skip
    deep = {form: {"accuracy@28": [value]} for form, value in (("placed", 0.98), ("bare", 1.0))}
    varied = {**dict.fromkeys(one, 0.5), "placed": 2.0, "bare": 4.0}
    found = summary(plain | held | deep, varied)
    expected = {"accuracy_at_28": 0.9, "two_layer_accuracy_at_28": 0.99, "gain_at_300": 0.15,
                "violation_left": 0.2 / 0.9, "variation_ratio": 6.0, "violation_to_accuracy": -1.0}  # fmt: skip
    assert found == pytest.approx(expected)


def test_impossible_brackets_are_refused():
    for wrong in ({"kinds": 0}, {"depth": 17}, {"length": 1}, {"longest": 4}, {"form": "words"}):
        with pytest.raises(ConfigError):
            Dyck(**wrong)
    with pytest.raises(ConfigError, match="model.depth must be positive"):
        build(replace(dyck_balanced_cpu().model, depth=0))
    narrow = replace(dyck_balanced_cpu().model, width=16)
    with pytest.raises(ConfigError, match="model.width must be at least 17"):
        build(narrow).apply(build(narrow).init(jax.random.key(0)), drawn(TASK, 2))


def test_the_study_measures_what_its_claims_and_pictures_name(monkeypatch, tmp_path):
    def untrained(recipe, form, seeds):
        nets = [build(recipe.model).init(jax.random.key(seed)) for seed in seeds]
        return [(Reading(replace(recipe.task, form=form), recipe.model, params), 1.0) for params in nets]

    for name, value in {"trained": untrained, "READ": 2000, "LENGTHS": (28,), "PUMPED": (0, 2)}.items():
        monkeypatch.setattr(dyck_study, name, value)
    figures = dyck_study.DYCK.run(tmp_path, "cpu", 0)
    assert {claim.metric for claim in dyck_study.DYCK.claims} <= figures.keys()
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["by_hand_accuracy"] == 1 and figures["by_hand_change"] < 1e-6 and figures["by_hand_violation"] == 0
    shown = dyck_study.DYCK.pictures({name: [value] for name, value in figures.items()})
    assert len(shown) == 5 and all(draw(picture).startswith("<svg") for picture in shown)
