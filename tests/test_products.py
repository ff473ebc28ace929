"""Laws of matrix products: of rounded operands, summed in float32, whatever the shapes; and the plain forms."""

from dataclasses import replace
from functools import partial, reduce
from itertools import product as every

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import Recipe, TrainConfig, TransformerConfig
from lm.losses import greatest, is_best, next_token
from lm.models import blocked_attention, build, plain_attention
from lm.models.layers import ACTIVATIONS, GATED, FeedForward, Norm, narrow_rows
from lm.models.transformer import resolve
from lm.products import into_heads, out_of_heads, product
from lm.strict import ConfigError
from lm.types import Batch
from scripts.cli import parse_recipe
from scripts.train import Options

RNG = np.random.default_rng(0)
CONFIG = TransformerConfig(vocabulary=64, depth=2, width=64, heads=4, kv_heads=2, dtype="float32")
LENGTH = 128  # two blocks of queries
SHAPES = [
    (1, 1, 1),
    (1, 8, 3),
    (7, 5, 2),
    (2, 33, 5),
    (6, 5, 33),
    (64, 33, 7),
    (50, 3, 128),
    (256, 96, 32),
    (256, 32, 96),
]


def numbers(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("operands", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_product_and_its_gradients_are_those_of_the_rounded_operands(operands, mapped):
    def both(x, w, g):
        out, back = jax.vjp(lambda x, w: product(x, w, operands), x, w)
        return out, *back(g)

    def expected(x, w, g):
        x, w, g = (np.asarray(a.astype(operands), np.float64) for a in (x, w, g))
        return x @ w, g @ w.T, x.T @ g

    for rows, inner, columns in SHAPES:
        arguments = [numbers(2, *shape) for shape in ((rows, inner), (inner, columns), (rows, columns))]
        if mapped:
            found = jax.jit(jax.vmap(both))(*arguments)
        else:
            found = jax.tree.map(lambda *a: jnp.stack(a), *(jax.jit(both)(*(a[i] for a in arguments)) for i in (0, 1)))
        for member in (0, 1):
            for a, b in zip(found, expected(*(a[member] for a in arguments)), strict=True):
                assert a.dtype == jnp.float32
                np.testing.assert_allclose(a[member], b, atol=1e-5 * rows**0.5 * inner**0.5, err_msg=str(a.shape))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("layer", [*ACTIVATIONS, *GATED, "rms", "layer"])
def test_what_is_computed_again_has_the_gradients_of_what_is_kept(layer, dtype):
    light, kept = (
        (Norm(layer, dtype=dtype), Norm(layer, dtype=dtype, plain=True))
        if layer in ("rms", "layer")
        else (FeedForward(8, layer, True, dtype, operands=operands) for operands in (dtype, None))
    )
    x, g = numbers(6, 4).astype(dtype), numbers(6, 4).astype(dtype)
    params = jax.tree.map(lambda a: a + numbers(*a.shape), kept.init(jax.random.key(0), x))

    def both(net):
        out, back = jax.vjp(net.apply, params, x)
        return out, back(g)

    near = 1e-5 if dtype == jnp.float32 else 0.05
    for a, b in zip(*map(jax.tree.leaves, (both(light), both(kept))), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(*(np.asarray(c, np.float32) for c in (a, b)), rtol=near, atol=near)


def test_what_is_computed_again_is_not_kept(monkeypatch):
    x, net = numbers(256, 16), FeedForward(64, operands=jnp.float32)
    params = net.init(jax.random.key(0), x)

    def held():
        def total(params):
            return reduce(lambda x, _: net.apply(params, x), range(6), x).sum()

        return jax.jit(jax.grad(total)).lower(params).compile().memory_analysis().temp_size_in_bytes

    light = held()
    monkeypatch.setattr("lm.models.layers.again", lambda function, rows, *weights: function(*rows, *weights))
    assert light < 0.75 * held()


def test_products_in_bfloat16_keep_the_types_of_what_they_are_given():
    x, w = numbers(8, 4).astype(jnp.bfloat16), numbers(4, 6)
    out, back = jax.vjp(lambda x, w: product(x, w, jnp.bfloat16), x, w)
    assert [a.dtype for a in (out, *back(out))] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]


@pytest.mark.parametrize("heads", [4, 2, 1])
def test_attention_with_operands_in_bfloat16_is_near_that_in_float32(heads):
    q, k, v, g = (numbers(2, each, LENGTH, 16) for each in (4, heads, heads, 4))

    def of(attend, **how):
        return jax.jit(lambda q, k, v: jax.vjp(lambda *x: attend(*x, scale=0.25, **how), q, k, v)[1](g))(q, k, v)

    pairs = zip(of(blocked_attention, operands=jnp.bfloat16), of(plain_attention), strict=True)
    errors = [float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs]
    assert 1e-4 < max(errors) < 2e-2  # eight bits, and not more of them


def loss_and_gradient(config, params=None):
    net = build(config)
    params = net.init(jax.random.key(0)) if params is None else params
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, config.vocabulary, (2, LENGTH)))
    places = jnp.tile(jnp.arange(LENGTH), (2, 1))
    batch = Batch(tokens, jnp.roll(tokens, -1, 1), jnp.ones((2, LENGTH)), places, {})
    return jax.jit(jax.value_and_grad(lambda p: next_token(net.apply, p, batch, None)[0]))(params)


def test_the_reference_is_the_model_in_plain_forms():
    (loss, gradient), (plain_loss, plain) = (
        loss_and_gradient(replace(CONFIG, reference=flag)) for flag in (False, True)
    )
    np.testing.assert_allclose(loss, plain_loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))
    net = build(replace(CONFIG, reference=True))
    tokens = jnp.zeros((1, LENGTH), jnp.int32)
    batch = Batch(tokens, tokens, jnp.ones((1, LENGTH)), tokens, {})
    params = net.init(jax.random.key(0))
    outputs = net.apply(params, batch)
    assert outputs.head is None and outputs.logits.shape == (1, LENGTH, CONFIG.vocabulary)
    slope = jax.jvp(lambda p: next_token(net.apply, p, batch, None)[0], (params,), (params,))[1]
    assert np.isfinite(slope)  # forwards too
    assert "custom_vjp" not in str(jax.make_jaxpr(lambda p: net.apply(p, batch).logits)(params))


def test_a_model_with_operands_in_bfloat16_is_near_the_one_in_float32():
    (loss, gradient), (narrow_loss, narrow) = (
        loss_and_gradient(replace(CONFIG, products=p)) for p in (None, "bfloat16")
    )
    assert 1e-7 < abs(loss - narrow_loss) < 1e-3
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(narrow), strict=True):
        assert a.dtype == b.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=0.05 * float(jnp.abs(a).max()))


def test_what_products_may_be_is_said():
    with pytest.raises(ConfigError, match="model.products.*bfloat16"):
        resolve(replace(CONFIG, products="bfloat1"))
    with pytest.raises(ConfigError, match="model.products bfloat16 is not for model.reference"):
        resolve(replace(CONFIG, products="bfloat16", reference=True))
    assert resolve(replace(CONFIG, dtype="bfloat16")).products == "bfloat16"
    assert resolve(resolve(replace(CONFIG, reference=True))).operands is None
    assert Recipe(task=None, model=CONFIG, train=TrainConfig()).model.products is None


def test_the_best_is_the_first_of_the_greatest_and_nothing_is_best_among_nothing():
    rows = every((0.0, 1.0, float("nan")), repeat=3)
    logits = jnp.asarray([row for row in rows if not np.isnan(row).any()])
    for target in range(3):
        targets = jnp.full(len(logits), target)
        np.testing.assert_array_equal(is_best(logits, greatest(logits), targets), jnp.argmax(logits, -1) == targets)
    nothing = jnp.asarray([[0.0, float("nan"), 1.0]])
    assert not any(is_best(nothing, greatest(nothing), jnp.asarray([target])).any() for target in range(3))


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("linear", [into_heads, out_of_heads])
def test_a_product_in_the_layout_of_heads_is_the_plain_product(linear, heads):
    x, w, g = numbers(6, 8), numbers(8, 12), numbers(6, 12)
    for bias in (None, numbers(12)):
        by_heads = partial(linear, batch=2, heads=heads, operands=jnp.float32)
        out, back = jax.vjp(lambda x, w, by_heads=by_heads, bias=bias: by_heads(x, w, bias), x, w)
        np.testing.assert_allclose(out, x @ w + (0 if bias is None else bias[None]), atol=1e-5)
        for found, expected in zip(back(g), (g @ w.T, x.T @ g), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_model_whose_heads_are_laid_out_for_tpu_is_the_plain_model(monkeypatch):
    config = replace(CONFIG, attention="plain", bias=True)
    rows = loss_and_gradient(config)
    monkeypatch.setattr("lm.models.attention.platform", lambda: "tpu")
    used, plainly = [], into_heads
    monkeypatch.setattr("lm.models.attention.into_heads", lambda *a, **how: used.append(how) or plainly(*a, **how))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), loss_and_gradient(config), rows)
    assert {how["heads"] for how in used} == {4, 2}


@pytest.mark.parametrize(("word", "flag"), [("true", True), ("True", True), ("false", False)])
def test_the_command_line_asks_for_the_reference_in_either_case(word, flag):
    options, recipe = parse_recipe(Options, ["flip_flop_attention_cpu", "--model.reference", word], "train.py", None)
    assert recipe.model.reference is flag


def test_rows_of_a_narrow_table_are_the_plain_rows_and_their_gradients_are_summed_in_float32():
    table, ids, g = numbers(50, 4), jnp.asarray(RNG.integers(0, 50, (2, 300))), numbers(2, 300, 4)
    out, back = jax.vjp(lambda table: narrow_rows(50, table, ids), table)
    np.testing.assert_array_equal(out, table[ids])
    np.testing.assert_allclose(back(g)[0], jnp.zeros_like(table).at[ids].add(g), atol=1e-5)
    narrow, back = jax.vjp(lambda table: narrow_rows(50, table.astype(jnp.bfloat16), ids), table)
    ones = jnp.ones_like(narrow)
    assert float(back(ones.at[:].set(1 + 2**-7))[0].sum()) == pytest.approx(ones.size * (1 + 2**-7), rel=2**-8)
    assert jnp.isnan(narrow_rows(50, table, jnp.asarray([[50]]))).all()
