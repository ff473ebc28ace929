"""Laws of the flip-flop language beyond those of every task: distributions, glitch map, one change at a time."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.report.pictures import HeatMap, draw
from lm.strict import ConfigError, differences, to_json
from lm.types import Net, Outputs
from tasks.formal.flip_flop import population as flip_flop_population
from tasks.formal.flip_flop import study as flip_flop_study
from tasks.formal.flip_flop.construction import construct
from tasks.formal.flip_flop.glitches import PARTS, distances, examine_reads, expected_reads, heads, spans, survey
from tasks.formal.flip_flop.language import IGNORE, READ, WRITE, ZERO, FlipFlop, flip_flop_attention_cpu, flip_flop_full
from tasks.formal.flip_flop.mitigations import MITIGATIONS, flip_flop_lstm_full


def batch_of(task, percent, count):
    return jax.jit(jax.vmap(task.sample, (0, None)))(jax.random.split(jax.random.key(7), count), percent)


def near(hits, chance):
    """Say whether a share of hits is what chance gives, within four standard deviations."""
    return abs(np.mean(hits) - chance) < 4 * math.sqrt(chance * (1 - chance) / np.size(hits)) + 1e-9


@pytest.mark.parametrize(
    ("percent", "writes", "last"), [(80, 0.5, None), (30, 0.9, None), (50, 0.0, None), (0, 0.25, None), (10, 0.5, 98)]
)
def test_instructions_come_as_often_as_their_distribution_says(percent, writes, last):
    task = FlipFlop(length=64, ignore=(percent,), writes=writes, last=last)
    batch = batch_of(task, percent, 2000)
    words = np.asarray(batch.inputs)[:, ::2]
    for middle, ignored in ((words[:, 1:24], percent), (words[:, 24:-1], percent if last is None else last)):
        chances = {IGNORE: ignored / 100}
        chances |= {WRITE: (1 - ignored / 100) * writes, READ: (1 - ignored / 100) * (1 - writes)}
        for word, chance in chances.items():
            assert near(middle == word, chance)
    reads = (words == READ).sum(axis=1)
    assert abs(reads.mean() - expected_reads(task, percent)) < 4 * reads.std() / math.sqrt(2000) + 1e-6


def test_an_automaton_turns_sparse_in_its_last_quarter():
    inputs = np.asarray(batch_of(FlipFlop(length=64, form="automaton", last=98), 10, 2000).inputs)
    assert near(inputs[:, 1:48] == 2, 0.1) and near(inputs[:, 48:] == 2, 0.98)


@pytest.mark.parametrize("wrong", [{"last": 101}, {"writes": 1.5}, {"test_reads": 0}])
def test_impossible_distributions_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FlipFlop(**wrong)
    with pytest.raises(ConfigError, match="task.writes .* be 0.5 for an automaton"):
        FlipFlop(form="automaton", writes=0.3)


def always(task, token):
    """Return a net that says one token everywhere and prefers 1 to 0 among the bits."""
    scores = jnp.zeros(task.vocabulary).at[task.vocabulary - 1 if task.form == "tokens" else 1].set(1).at[token].set(2)
    return Net(lambda key: {}, lambda params, batch, key=None: Outputs(jnp.tile(scores, (*batch.inputs.shape, 1))))


@pytest.mark.parametrize(("form", "token"), [("tokens", ZERO), ("tokens", READ), ("automaton", 0)])
def test_the_glitch_map_counts_what_a_sequential_count_counts(form, token):
    task, key, size = FlipFlop(length=48, form=form, test_reads=700), jax.random.key(3), 60
    found = survey(always(task, token), {}, task, key, size)
    strings = math.ceil(700 / expected_reads(task, size))
    glitches, reads = np.zeros((2, PARTS, len(distances(task))))
    confused = flawless = 0
    batch = jax.device_get(jax.vmap(task.test_example, (None, 0, None))(key, jnp.arange(strings), jnp.int32(size)))
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        write, wrongs = 0, 0
        for place, (symbol, target) in enumerate(zip(inputs, targets, strict=True)):
            instruction = form == "automaton" or place % 2 == 0
            if symbol != 2 if form == "automaton" else instruction and symbol == WRITE:
                write = place
            if form == "automaton" or (instruction and symbol == READ):
                gap = place - write if form == "automaton" else (place - write) // 2
                cell = place * PARTS // task.max_length, 0 if gap == 0 else 1 + int(math.log2(gap))
                reads[cell] += 1
                glitches[cell] += target != token
                wrongs += target != token
                confused += target != (token if token in (0, ZERO) else ZERO + 1)
        flawless += wrongs == 0
    np.testing.assert_array_equal(found.reads, reads)
    np.testing.assert_array_equal(found.glitches, glitches)
    assert (found.strings, found.flawless, found.confused) == (strings, flawless, confused)


def test_an_evaluation_counts_the_reads_asked_for_and_slices_them_without_loss():
    task = FlipFlop(length=64, test_reads=2000)
    net, params = construct(task)
    found = examine_reads(net, params, task, jax.random.key(0))
    for rates in found.slices["percent ignored"].values():
        assert rates["glitch_rate"].value == 0 and 0.8 * 2000 < rates["glitch_rate"].count < 1.2 * 2000
    for slicing in ("steps since the write", "part of the string"):
        counts = [rates["glitch_rate"].count for rates in found.slices[slicing].values()]
        assert sum(counts) == found.metrics["glitch_rate"].count
    assert list(found.slices["steps since the write"]) == ["1", "2-3", "4-7", "8-15", "16-31"]
    assert found.examples and found.metrics["exact_match"].value == 1


def test_weights_by_hand_rest_their_attention_on_the_right_write():
    task = FlipFlop(length=32)
    net, params = construct(task)
    seen = heads(net, params, task, jax.random.key(0), 50, strings=256)
    assert seen.glitches == 0 and np.isnan(seen.at_glitches_NH).all()
    assert seen.elsewhere_NH[1, 0] == pytest.approx(1.0, abs=1e-5) and seen.elsewhere_NH[0, 0] < 0.9


def test_spans_name_ranges():
    assert spans([0, 1, 2, 4], 8) == ["0", "1", "2-3", "4-7"]


@pytest.mark.parametrize("scale", MITIGATIONS)
def test_a_mitigation_is_one_change(scale):
    baseline = to_json({"cpu": flip_flop_attention_cpu, "full": flip_flop_full}[scale]())
    for recipe in MITIGATIONS[scale].values():
        paths = [d.path.split(".") for d in differences(baseline, to_json(recipe())) if d.path != "name"]
        assert len({path[0] if path[0] == "objective" else path[1] for path in paths}) == 1
    assert flip_flop_lstm_full().task.test_reads > 350_000


def test_figures_become_pictures():
    assert flip_flop_study.pictures({}) == []
    figures = {"map/sparse/part=0/steps=1": [0.25, 0.75], "heads/sparse/at glitches/0.1": [0.1, float("nan")]}
    maps = flip_flop_study.pictures(figures)
    assert maps[0].values[0][1] == 0.5 and maps[1].values == [[None, 0.1, None]]
    made = {
        f"{name}/{tail}/run={i}": [0.1 * i, 0.2 * i, 0.3 * i]
        for name in ("baseline", "rare strings")
        for tail in ("sparse", "dense")
        for i in range(3)
    }
    found = flip_flop_population.pictures(made | {"baseline/flawless": [1.0] * 3, "rare strings/flawless": [1.0] * 3})
    assert "3 of 9 flawless" in found[1].rows[0] and found[1].values[0][-1] == pytest.approx(0.6)
    assert all(draw(picture).startswith("<svg") for picture in (*maps, *found))
    assert isinstance(found[1], HeatMap) and dataclasses.is_dataclass(found[0])


@pytest.mark.parametrize("scale", ["cpu", "full"])
def test_populations_are_compared_by_their_medians(monkeypatch, tmp_path, scale):
    rates = {"baseline": 0.06, "rare": 0.0, "alibi": 0.03}

    def made(recipe, folder, seeds, reads):
        level = next((rate for name, rate in rates.items() if name in recipe.name), 0.06)
        return {tail: level * (1 + np.arange(len(seeds))) for tail in flip_flop_population.TAILS}

    monkeypatch.setattr(flip_flop_population, "population", made)
    figures = flip_flop_population.run(tmp_path, scale, 1)
    experiment = flip_flop_population.FLIP_FLOP_MITIGATIONS
    assert {claim.metric for claim in experiment.claims if claim.scale == scale} <= set(figures)
    assert figures["rare strings/sparse/over_baseline"] == 0 and figures["others_flawless"] == 0
    assert figures["ALiBi/dense/over_baseline"] == pytest.approx({"cpu": 0.25, "full": 0.5}[scale])
    assert figures["rare strings/flawless"] == {"cpu": 1, "full": 8}[scale]
    pictures = experiment.pictures({name: [value] * 3 for name, value in figures.items()})
    assert len(pictures) == 3 and all(draw(picture).startswith("<svg") for picture in pictures)
