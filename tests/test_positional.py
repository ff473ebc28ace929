"""Attention by place alone: its equations and what follows from them; aggregates, and errors as numbers."""

import itertools
import json
from dataclasses import replace
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import PositionalConfig
from lm.evaluate import examine
from lm.losses import squared
from lm.models import build
from lm.models.layers import ACTIVATIONS
from lm.strict import ConfigError
from lm.train import fit
from lm.types import Batch, Net, Outputs
from tasks.arithmetic.aggregates import ASKS, Aggregates, aggregate, aggregates_cpu, draw_ends
from tasks.arithmetic.positional_attention import pictures

B, L = 6, 5
KINDS = {name: PositionalConfig(places=L, width=8, feedforward=6, depth=2, attention=name) for name in
         ("positional", "standard", "rotary")}  # fmt: skip
every_kind = pytest.mark.parametrize("name", KINDS)


def some(config, biases=0.3):
    """Return a net and parameters far from any initialisation."""
    net, rng = build(config), np.random.default_rng(3)

    def draw(path, leaf):
        spread = biases if path[-1].key == "bias" else 0.6
        return jnp.asarray(spread * rng.standard_normal(leaf.shape), jnp.float32)

    return net, jax.tree_util.tree_map_with_path(draw, jax.eval_shape(net.init, jax.random.key(0)))


def lists(seed=0, count=B):
    return np.random.default_rng(seed).standard_normal((count, L, 1)).astype(np.float32)


def batch_of(numbers_BL1, step=1):
    places = jnp.broadcast_to(step * jnp.arange(L), numbers_BL1.shape[:2])
    return Batch(jnp.asarray(numbers_BL1), None, None, places, {})


def numpy_model(params, x, config):
    """Write the model of the paper's sheet as its equations: one list [L, 1] to [L, 1], and its maps [N, H, L, L]."""
    p, eye, maps = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), np.eye(L), []
    told = config.attention == "standard"
    x = np.concatenate([x, eye], axis=1) if told else x
    x = x @ p["input"]["kernel"] + p["input"]["bias"]
    for n in range(config.depth):
        b = jax.tree.map(lambda leaf, n=n: leaf[n], p["blocks"])
        read = []
        for h in range(config.heads):
            part = slice(h * L, h * L + L)
            q, k = ((x if told else eye) @ b[role]["kernel"][:, part] for role in ("query", "key"))
            weights = np.exp(q @ k.T / L**0.5)
            maps.append(weights / weights.sum(axis=1, keepdims=True))
            read.append(maps[-1] @ x @ b["value"]["kernel"][:, part])
        both = np.concatenate([x, np.concatenate(read, axis=1) @ b["output"]["kernel"]], axis=1)
        hidden = np.maximum(both @ b["up"]["kernel"] + b["up"]["bias"], 0)
        x = hidden @ b["down"]["kernel"] + b["down"]["bias"]
    return x @ p["head"]["kernel"] + p["head"]["bias"], np.reshape(maps, (config.depth, config.heads, L, L))


@pytest.mark.parametrize("name", ["positional", "standard"])
def test_the_model_is_its_equations(name):
    net, params = some(KINDS[name])
    outputs = jax.jit(lambda *arguments: net.apply(*arguments, attention=True))(params, batch_of(lists()))
    for row, numbers in enumerate(lists()):
        said, maps = numpy_model(params, numbers, KINDS[name])
        np.testing.assert_allclose(outputs.logits[row], said, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(outputs.attention[:, row % outputs.attention.shape[1]], maps, atol=1e-5)


@every_kind
def test_rows_of_maps_sum_to_one_and_only_places_make_them_the_same_for_all_lists(name):
    net, params = some(KINDS[name])
    run = jax.jit(lambda numbers: net.apply(params, batch_of(numbers), attention=True).attention)
    one, other = run(lists(0)), run(lists(1))
    np.testing.assert_allclose(one.sum(axis=-1), 1, rtol=1e-5)
    assert one.shape[1:] == ((1, 2, L, L) if name == "positional" else (B, 2, L, L))
    assert np.array_equal(one, other) is (name == "positional")


@every_kind
def test_a_net_of_ten_thousand_parameters_a_layer_is_the_papers(name):
    params = jax.eval_shape(build(PositionalConfig(attention=name)).init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    by_content = 9 * 64 + 4 * 2 * 18 * (64 - 9)
    assert count == 60_369 + (0 if name == "positional" else by_content)


@pytest.mark.parametrize("name", ["positional", "standard"])
def test_what_is_said_along_a_ray_is_pieces_of_lines(name):
    config = replace(KINDS[name], width=4, feedforward=3, depth=1)
    net, params = some(config)
    # An even step that binary numbers hold exactly; differences of rounded values of order one stay below 1e-5.
    ray = (np.arange(-256, 257) / 32)[:, None, None] * lists(count=1)
    said = np.asarray(jax.jit(lambda numbers: net.apply(params, batch_of(numbers)).logits)(ray.astype(np.float32)))
    bends = np.abs(said[2:] - 2 * said[1:-1] + said[:-2]) > 1e-5
    most = 2 * config.feedforward  # a bend of a hidden unit lies in at most two differences
    assert bends.any() and bool(np.all(bends.sum(axis=(0, 2)) <= most)) is (name == "positional")


@pytest.mark.parametrize("name", ["positional", "standard"])
@pytest.mark.parametrize("activation, factors", [("relu", (2.0, 0.25)), ("identity", (2.0, -0.25))])
def test_without_biases_what_is_said_scales_with_the_list(name, activation, factors, monkeypatch):
    if activation == "identity":
        monkeypatch.setitem(ACTIVATIONS, "relu", lambda x: x)
    net, params = some(KINDS[name], biases=0.0)
    said = jax.jit(lambda numbers: net.apply(params, batch_of(numbers)).logits)
    for factor in factors:  # powers of two scale without rounding
        equal = np.array_equal(said(factor * lists()), factor * said(lists()))
        assert equal is (name == "positional")


def test_rotation_sees_differences_of_places_alone():
    net, params = some(KINDS["rotary"])
    said = [net.apply(params, batch_of(lists(), step)).logits for step in (0, 1)]
    still = build(KINDS["standard"]).apply(params, batch_of(lists())).logits
    moved = batch_of(lists())
    moved = net.apply(params, moved._replace(positions=moved.positions + 3)).logits
    np.testing.assert_allclose(said[0], still, atol=1e-5)
    np.testing.assert_allclose(said[1], moved, atol=1e-4)
    assert np.abs(said[1] - still).max() > 1e-2


def test_one_layer_by_hand_gives_running_means():
    net = build(PositionalConfig(places=L, heads=1, width=1, feedforward=2, depth=1))
    first, later = np.eye(1, L), np.arange(L)[:, None] > np.arange(L)[None]
    zero = {"bias": np.zeros(1)}
    blocks = {
        "query": {"kernel": L**0.5 * np.eye(L)[None]},
        "key": {"kernel": -1e3 * later[None]},  # a place gives nothing to those before it, the same to all others
        "value": {"kernel": first[None]},
        "output": {"kernel": first.T[None]},
        "up": {"kernel": np.array([[[0, 0], [1, -1]]]), "bias": np.zeros((1, 2))},
        "down": {"kernel": np.array([[[1], [-1]]]), "bias": np.zeros((1, 1))},
    }
    one = {"kernel": np.ones((1, 1))} | zero
    params = jax.tree.map(jnp.float32, {"input": one, "blocks": blocks, "head": one})
    means = np.asarray(jax.jit(net.apply)(params, batch_of(lists())).logits)[..., 0]
    np.testing.assert_allclose(means * np.arange(1, L + 1), np.cumsum(lists()[..., 0], axis=1), atol=1e-5)


BRUTE = {
    "sum": sum,
    "minimum": min,
    "median": median,
    "subarray": lambda x: max(sum(x[i:j]) for i, j in itertools.combinations(range(len(x) + 1), 2)),
}


@pytest.mark.parametrize("ask", ASKS)
def test_aggregates_are_those_of_every_short_list(ask):
    for n in (1, 2, 3, 4):
        numbers = np.array(list(itertools.product((-1.5, -0.25, 0.5, 2.0), repeat=n)), np.float32)
        found = jax.jit(jax.vmap(lambda numbers_L: aggregate(ask, numbers_L)))(numbers)
        expected = [
            sorted(x) if ask == "sort" else [BRUTE[ask](x[: i + 1]) for i in range(n)] for x in numbers.tolist()
        ]
        np.testing.assert_array_equal(found, np.array(expected, np.float32))
        if ask == "subarray":
            negative = numbers.max(axis=1) < 0
            np.testing.assert_array_equal(found[negative], np.maximum.accumulate(numbers[negative], axis=1))


@pytest.mark.parametrize("scale", [1, 2, 4, 10])
def test_tests_beyond_the_training_scale_could_not_have_been_seen_in_training(scale):
    count = 4000
    ends = np.asarray(jax.jit(jax.vmap(draw_ends, (0, None)))(jax.random.split(jax.random.key(scale), count), scale))
    assert np.all(ends[:, 0] <= ends[:, 1]) and np.abs(ends).max() <= 2 * scale and np.abs(ends).max() > 1.99 * scale
    inside = np.sum(np.abs(ends) <= 2, axis=1)
    if scale == 1:
        assert np.all(inside == 2)
        return
    # Of ends drawn once, 1 / c^2 would both lie inside and 2 (1 - 1 / c) / c one of them: what is left is 1 - 1 / c^2.
    share = 2 / scale * (1 - 1 / scale) / (1 - 1 / scale**2)
    assert np.all(inside < 2) and abs(np.mean(inside == 1) - share) < 4 * (share * (1 - share) / count) ** 0.5


def test_a_squared_error_reads_one_number_or_the_difference_of_two_classes():
    weights, values = jnp.array([[1.0, 1.0, 0.0]]), jnp.array([[1.0, -2.0, 9.0]])
    one, two = jnp.array([[[0.5], [-1.0], [0.0]]]), jnp.array([[[1.0, 1.5], [3.0, 2.0], [0.0, 0.0]]])
    for said, targets, info in ((one, values, {}), (two, values > 0, {"values": values})):
        batch = Batch(None, targets, weights, None, info)
        loss, metrics = squared(lambda *_, said=said: Outputs(said), None, batch, None)
        assert float(loss) == pytest.approx((0.25 + 1) / 2) and float(metrics["loss"].count) == 2


def test_an_error_is_a_mean_with_its_unit_and_its_interval_by_the_spread_of_examples():
    task = Aggregates(numbers=4, largest_scale=3)
    net = Net(lambda key: {}, lambda params, batch, key=None: Outputs(jnp.zeros_like(batch.inputs)))
    key = jax.random.key(7)
    found = examine(net, {}, task, key)
    draw = jax.jit(jax.vmap(task.test_example, (None, 0, None)))
    targets = [draw(jax.random.fold_in(key, c), jnp.arange(1000), c).targets[:, :4] for c in (1, 2, 3)]
    for rate, asked in zip(
        (found.metrics, *found.slices["scale"].values()), (np.concatenate(targets), *targets), strict=True
    ):
        rate, errors = rate["squared_error"], np.square(np.float64(asked)).mean(axis=1)
        half = 1.959964 * errors.std(ddof=1) / len(errors) ** 0.5
        assert (rate.unit, rate.count) == ("a number", len(errors))
        np.testing.assert_allclose(rate[:3], errors.mean() + half * np.array([0, -1, 1]), rtol=1e-4)
    assert {e["prediction"] for e in found.examples} == {"0.00 0.00 0.00 0.00"}
    assert not any(e["right"] for e in found.examples)


def test_a_run_reports_errors_as_numbers(tmp_path):
    recipe = aggregates_cpu()
    task = replace(recipe.task, numbers=2, largest_scale=3)
    model = replace(recipe.model, places=3, depth=1, width=4, feedforward=4)
    train = replace(recipe.train, steps=4, steps_per_dispatch=2, batch_size=8)
    fit(replace(recipe, task=task, model=model, train=train), tmp_path, quiet=True)
    error = json.loads((tmp_path / "summary.json").read_text())["metrics"]["squared_error"]
    page = (tmp_path / "report.html").read_text()
    results = page[page.index("Results by scale") :]
    results = results[: results.index("</section>")]
    assert f"{error['value']:.4g} a number" in page and "a number" in results
    assert "%" not in results.replace("95 %", "") and "trained on" in results


def test_pictures_show_each_question_that_was_measured_by_scale():
    errors = {"positional": 1e-3, "standard": 1.0, "ratio": 1e3}
    figures = {f"sort {name}@{c}": [c * e, 2 * c * e, 3 * c * e] for name, e in errors.items() for c in (1, 2, 10)}
    (picture,) = pictures(figures)
    assert picture.log and not picture.percent and picture.shaded == (1, 1) and picture.title.startswith("Sort")
    for series, error in zip(picture.series, (1e-3, 1.0), strict=True):
        np.testing.assert_allclose(series.y, [2 * c * error for c in series.x])
        np.testing.assert_allclose(series.high, [2.5 * c * error for c in series.x])


BAD = {
    "did you mean standard": replace(KINDS["positional"], attention="standart"),
    "model.places must be positive, got 0": replace(KINDS["positional"], places=0),
    "model.heads must be positive, got 0": replace(KINDS["positional"], heads=0),
}


@pytest.mark.parametrize("message", BAD)
def test_what_makes_no_model_is_refused(message):
    with pytest.raises(ConfigError, match=message):
        build(BAD[message])


def test_a_list_of_another_length_is_refused():
    net, params = some(KINDS["positional"])
    with pytest.raises(ConfigError, match="model.places is 5, the data has 4"):
        net.apply(params, batch_of(lists())._replace(inputs=jnp.zeros((B, 4, 1))))
