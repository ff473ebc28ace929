"""Laws of majority kernels: what the copies stand for, how they move, and what is left when they collapse."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import assert_close, assert_same

from lm.config import (
    MajorityKernels,
    MLPConfig,
    NoPositions,
    OptimizerConfig,
    Recipe,
    ResNetConfig,
    RNNConfig,
    TrainConfig,
)
from lm.config import TransformerConfig as Decoder
from lm.losses import next_token
from lm.models import build
from lm.models.convolution import Convolution
from lm.models.layers import Projection
from lm.models.majority import LAWS, MajorityConv, MajorityDense, draw_weights, mix
from lm.step import init_state, make_step, repeat
from lm.strict import ConfigError
from lm.sweep import run_sweep
from lm.train import build_net, parts_of
from lm.transforms import ema, majority, wrap
from lm.transforms.wrap import is_stacked, map_paths
from lm.types import Batch
from tasks.formal.groups.modular_arithmetic import ModularArithmetic

B, L, V = 4, 6, 11
DECODER = Decoder(vocabulary=V, depth=2, width=16, heads=2, dropout=0.1, unroll=False, positions=NoPositions())
MODELS = {
    "transformer": DECODER,
    "lstm": RNNConfig(vocabulary=V, depth=2, width=8, dropout=0.1),
    "mlp": MLPConfig(inputs=L, outputs=V, vocabulary=V, embedding=8, width=16, depth=2),
    "resnet": ResNetConfig(classes=V, width=4, depth=1, groups=1, norm_groups=2),
}
every_model = pytest.mark.parametrize("name", MODELS)
KEY = jax.random.key(7)
THREE = MajorityKernels(factor=3)


def make_batch(name):
    rng = np.random.default_rng(1)
    tokens = jnp.asarray(rng.integers(0, V, (B, L)))
    inputs = jnp.asarray(rng.standard_normal((B, 8, 8, 1)), jnp.float32) if name == "resnet" else tokens
    targets = tokens if name in ("transformer", "lstm") else tokens[:, :1]
    return Batch(inputs, targets, jnp.ones(targets.shape), jnp.tile(jnp.arange(L), (B, 1)), {})


@cache
def net_of(name, config=None):
    net = build(MODELS[name])
    return net if config is None else wrap(net, majority(config))


@cache
def settle_of(config):
    return jax.jit(majority(config).settle)


@cache
def copies_of(name, config):
    return jax.jit(net_of(name, config).init)(KEY)


def train(net, params, batch, optimizer, steps):
    """Return the parameters after some steps on one batch."""
    state = init_state(net, optimizer, KEY)._replace(params=params, opt_state=optimizer.init(params))
    step = jax.jit(make_step(net, next_token, optimizer))
    for _ in range(steps):
        state, _ = step(state, batch)
    return state.params


def over_copies(function, params, pattern="kernel$"):
    """Map a function (array, copies' axis) over the expanded parameters."""
    return map_paths(lambda path, x: function(x, int(is_stacked(path))) if "kernel" in path else x, params)


# One copy is the plain model


@every_model
def test_one_copy_is_the_plain_model_bit_for_bit(name):
    config = MajorityKernels(factor=1)
    plain, wrapped = net_of(name), net_of(name, config)
    batch, optimizer = make_batch(name), optax.adam(1e-2)
    begin, copies = plain.init(KEY), wrapped.init(KEY)
    assert_same(settle_of(config)(copies), begin)
    after = train(plain, begin, batch, optimizer, 5)
    assert_same(settle_of(config)(train(wrapped, copies, batch, optimizer, 5)), after)


def test_equal_copies_under_equal_weights_are_sgd_at_a_third_of_the_rate():
    config = MajorityKernels(factor=3, law="mean")
    plain, wrapped, batch = net_of("mlp"), net_of("mlp", config), make_batch("mlp")
    begin = plain.init(KEY)
    copies = over_copies(lambda x, axis: jnp.stack([x] * 3, axis), begin)
    labels = map_paths(lambda path, _: "copied" if "kernel" in path else "plain", begin)
    third = optax.multi_transform({"copied": optax.sgd(0.3 / 3), "plain": optax.sgd(0.3)}, labels)
    collapsed = settle_of(config)(train(wrapped, copies, batch, optax.sgd(0.3), 20))
    after = train(plain, begin, batch, third, 20)
    assert_close(collapsed, after)
    assert float(abs(after["head"]["kernel"] - begin["head"]["kernel"]).max()) > 0.01


# The weights


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("share", ["layer", "channel", "model"])
def test_weights_are_convex_with_mean_one_over_the_factor(law, share):
    count, factor, a = 10_000, 3, 0.3
    config = MajorityKernels(factor=factor, law=law, concentration=a, share=share)
    draw = jax.vmap(lambda key: draw_weights(config, key, (2, factor, 4, 5), axis=1))
    c = np.asarray(jax.jit(draw)(jax.random.split(KEY, count)), np.float64)
    layers, channels = 1 if share == "model" else 2, 5 if share == "channel" else 1
    assert c.shape == (count, layers, factor, 1, channels)
    assert np.all(c >= 0)
    np.testing.assert_allclose(c.sum(axis=2), 1, atol=1e-6)
    np.testing.assert_allclose(c.mean(axis=0), 1 / factor, atol=4 * max(c.std() / count**0.5, 1e-9))
    choice = (1 / factor) * (1 - 1 / factor)
    expected = {"uniform": 0.0323, "dirichlet": choice / (factor * a + 1), "choice": choice, "mean": 0.0}[law]
    np.testing.assert_allclose(c.var(axis=0), expected, rtol=0.06, atol=1e-12)
    if layers * channels > 1 and law != "mean":
        assert abs(np.corrcoef(c.reshape(count, layers, factor, channels)[:, :, 0].reshape(count, -1).T)[0, 1]) < 0.05


@pytest.mark.parametrize("law", ["uniform", "dirichlet", "choice"])
def test_the_loss_under_mixing_is_that_of_the_mean_and_a_penalty_on_the_spread(law):
    factor, count = 3, 100_000
    config = MajorityKernels(factor=factor, law=law, concentration=0.3)
    rng = np.random.default_rng(0)
    copies, root = rng.standard_normal((factor, 4)), rng.standard_normal((4, 4))
    hessian, middle = root @ root.T, copies.mean(axis=0)
    weights = jax.jit(jax.vmap(lambda key: draw_weights(config, key, (factor, 4))))(jax.random.split(KEY, count))
    mixed = np.asarray(jax.vmap(lambda c: mix(jnp.asarray(copies, jnp.float32), c))(weights), np.float64)
    loss = np.einsum("ni,ij,nj->n", mixed, hessian, mixed) / 2
    spread = copies - middle
    variance = np.asarray(weights, np.float64).var(axis=0).mean()
    penalty = variance * factor / (factor - 1) * np.einsum("ei,ij,ej->", spread, hessian, spread) / 2
    np.testing.assert_allclose(loss.mean(), middle @ hessian @ middle / 2 + penalty, rtol=0.01)
    assert penalty > 0.05 * loss.mean()


# Gradients


@pytest.mark.parametrize(("name", "share"), [("transformer", "layer"), ("transformer", "model"), ("resnet", "channel")])
def test_the_gradient_of_a_copy_is_its_weight_times_that_of_the_mix(name, share):
    config = replace(THREE, law="dirichlet", share=share)
    plain, settle, batch = net_of(name), settle_of(config), make_batch(name)
    copies, rate = copies_of(name, config), 0.1
    key = jax.random.fold_in(KEY, 1)

    def loss(params):
        return next_token(plain.apply, params, batch, key)[0]

    # The weights, read off copies that are one where they are that copy and zero elsewhere.
    marks = over_copies(
        lambda x, axis: (
            jnp.broadcast_to(jnp.eye(3).reshape(3, 3, *[1] * (x.ndim - 1)), (3, 3, *x.shape[1:]))
            if axis == 0
            else jnp.stack([jnp.zeros_like(x).at[:, i].set(1) for i in range(3)])
        ),
        copies,
    )
    weights = [settle(over_copies(lambda m, axis, i=i: m[i], marks), key) for i in range(3)]
    gradient = jax.jit(jax.grad(lambda params: loss(majority(config).settle(params, key))))(copies)
    whole = jax.jit(jax.grad(loss))(settle(copies, key))
    for i in range(3):
        mine = over_copies(lambda g, axis, i=i: g.take(i, axis), gradient)
        assert_close(mine, map_paths(lambda path, g, c: c * g if "kernel" in path else g, whole, weights[i]))
    after = jax.tree.map(lambda w, g: w - rate * g, copies, gradient)
    moved = jax.tree.map(jnp.subtract, settle(after), settle(copies))
    assert_close(moved, map_paths(lambda path, g: -rate * g / (3 if "kernel" in path else 1), whole))


# Collapse


@pytest.mark.parametrize(
    ("name", "initialisation"), [*((name, "independent") for name in MODELS), ("mlp", "scaled"), ("lstm", "shared")]
)
def test_the_collapsed_model_is_a_plain_one_with_equal_outputs(name, initialisation):
    config = replace(THREE, initialisation=initialisation)
    plain, wrapped, batch = net_of(name), net_of(name, config), make_batch(name)
    copies = copies_of(name, config)
    collapsed = settle_of(config)(copies)
    shapes = jax.eval_shape(plain.init, KEY)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), collapsed) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    scores = jax.jit(lambda params: wrapped.apply(params, batch).logits)(copies)
    assert_same(scores, jax.jit(lambda params: plain.apply(params, batch).logits)(collapsed))
    assert float(abs(scores).max()) > 0


def test_embeddings_are_expanded_where_the_pattern_says_so():
    config = replace(THREE, pattern="(kernel|table)$")
    wrapped, batch = net_of("transformer", config), make_batch("transformer")
    copies = wrapped.init(KEY)
    assert copies["embedding"]["table"].shape == (3, V, 16)
    assert copies["blocks"]["attention"]["query"]["kernel"].shape[:2] == (2, 3)
    assert copies["final_norm"]["scale"].shape == (16,)
    mixed = [settle_of(config)(copies, key)["embedding"]["table"] for key in jax.random.split(KEY)]
    assert not np.allclose(*mixed)
    scores = jax.jit(lambda params: wrapped.apply(params, batch).logits)(copies)
    collapsed = jax.jit(lambda params: net_of("transformer").apply(params, batch).logits)
    assert_same(scores, collapsed(settle_of(config)(copies)))


def test_a_pattern_that_names_nothing_is_an_error():
    with pytest.raises(ConfigError, match="transforms.pattern 'kernels' names no parameter"):
        net_of("mlp", MajorityKernels(pattern="kernels")).init(KEY)


def test_the_order_of_the_copies_does_not_matter():
    config = replace(THREE, law="mean")
    wrapped, batch, optimizer = net_of("mlp", config), make_batch("mlp"), optax.adam(1e-2)
    copies = wrapped.init(KEY)
    turned = over_copies(lambda x, axis: jnp.roll(x, 1, axis), copies)
    ends = [train(wrapped, start, batch, optimizer, 5) for start in (copies, turned)]
    assert_close(over_copies(lambda x, axis: jnp.roll(x, 1, axis), ends[0]), ends[1])
    assert_close(*map(settle_of(config), ends))
    scores = jax.jit(lambda params: wrapped.apply(params, batch).logits)
    assert_same(scores(copies), scores(copies))


def test_the_average_of_the_copies_collapses_to_the_average_of_the_collapsed():
    settle, average = settle_of(THREE), ema(0.5)
    old, new = (jax.jit(net_of("transformer", THREE).init)(key) for key in jax.random.split(KEY))
    step = jnp.int32(100)
    assert_close(settle(average.update(old, new, step)), average.update(settle(old), settle(new), step), 1e-6)


@pytest.mark.parametrize(("initialisation", "spread"), [("independent", 1 / 3), ("scaled", 1.0), ("shared", 1.0)])
def test_the_mean_starts_with_the_variance_that_the_initialisation_promises(initialisation, spread):
    config = replace(THREE, initialisation=initialisation)
    kernel = build(replace(DECODER, width=64)).init(KEY)["blocks"]["feedforward"]["up"]["kernel"]
    copies = wrap(build(replace(DECODER, width=64)), majority(config)).init(KEY)
    up = copies["blocks"]["feedforward"]["up"]["kernel"]
    np.testing.assert_allclose(up.mean(axis=1).var() / kernel.var(), spread, rtol=0.05)
    if initialisation == "shared":
        np.testing.assert_allclose((up[:, 1] - up[:, 0]).std() / kernel.std(), 0.01, rtol=0.05)
    elif initialisation == "independent":
        assert_same(up[:, 0], kernel)


# One draw wherever it is made


SHARDED = """
import jax, numpy as np
from lm.config import MajorityKernels, MeshConfig, MLPConfig
from lm.mesh import make_mesh, state_shardings
from lm.models import build
from lm.transforms import majority, wrap
config = MajorityKernels(factor=3, law="dirichlet", share="channel")
net = wrap(build(MLPConfig(inputs=2, vocabulary=11, outputs=8, width=16)), majority(config))
key = jax.random.key(7)
shardings = state_shardings(jax.eval_shape(net.init, key), make_mesh(MeshConfig(fsdp=2, tensor=2)))
copies = jax.jit(net.init, out_shardings=shardings)(key)
settled = jax.jit(majority(config).settle)(copies, key)
assert not settled["blocks"]["hidden"]["kernel"].is_fully_replicated
np.savez({path!r}, *map(np.asarray, jax.tree.leaves(settled)))
"""


def test_eight_devices_draw_what_one_draws(tmp_path):
    path = str(tmp_path / "settled.npz")
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    command = [sys.executable, "-c", SHARDED.format(path=path)]
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[1])
    config = MajorityKernels(factor=3, law="dirichlet", share="channel")
    net = wrap(build(MLPConfig(inputs=2, vocabulary=11, outputs=8, width=16)), majority(config))
    settled = settle_of(config)(jax.jit(net.init)(KEY), KEY)
    with np.load(path) as found:
        assert_close([found[name] for name in found.files], jax.tree.leaves(settled), 1e-6)


def test_every_layer_and_every_step_draws_anew_and_the_model_shares_where_it_should():
    ones = over_copies(
        lambda x, axis: jnp.zeros_like(x).at[(slice(None),) * axis + (0,)].set(1), copies_of("transformer", THREE)
    )
    for share, distinct in (("layer", 2 * 6), ("model", 1)):
        first, again, other = (
            over_copies(lambda x, axis: x.ravel(), settle_of(replace(THREE, share=share))(ones, key))
            for key in (KEY, KEY, jax.random.key(8))
        )
        drawn = [
            np.unique(np.concatenate([x for x in jax.tree.leaves(p["blocks"]) if x.size > 100])) for p in (first, other)
        ]
        assert_same(first, again)
        assert len(drawn[0]) == distinct and not set(drawn[0]) & set(drawn[1])


def test_a_member_of_a_sweep_is_its_single_run():
    task = ModularArithmetic(modulus=7)
    recipe = Recipe(
        task=task,
        model=MLPConfig(inputs=2, vocabulary=7, outputs=7, embedding=8, width=16),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        train=TrainConfig(steps=20, batch_size=8, log_every=10),
        transforms=(THREE,),
    )
    member = run_sweep(recipe, {}, seeds=[0, 4]).members[1]
    net, source = build_net(recipe)[1], task.source(recipe, Path("."))
    objective, optimizer, _ = parts_of(recipe)
    stretch = jax.jit(repeat(make_step(net, objective, optimizer, source.draw)))
    state = init_state(net, optimizer, jax.random.key(4))
    for _ in range(2):
        state, _ = stretch(state, None, 10)
    assert member.seed == 4
    assert_close(member.state.params, state.params, 1e-6)


# The layers


LAYERS = {
    "dense": (lambda **more: MajorityDense(5, **more), Projection(5, use_bias=True), (3, 4)),
    "convolution": (lambda **more: MajorityConv(5, **more), Convolution(5), (2, 6, 6, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("share", ["layer", "channel"])
def test_a_layer_is_the_transform_around_a_plain_layer(name, share):
    make, plain, shape = LAYERS[name]
    config = replace(THREE, share=share)
    layer = make(majority=config, use_bias=name == "dense")
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    params = layer.init(KEY, x)["params"]
    expanded = majority(config).init(lambda key: plain.init(key, x)["params"], KEY)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expanded)
    assert_same(layer.apply({"params": params}, x), plain.apply({"params": settle_of(config)(params)}, x))
    y = layer.apply({"params": params}, x, deterministic=False, rngs={"majority": KEY})
    ones = jnp.zeros_like(params["kernel"])
    weights = jnp.stack(
        [_kernel_of(make(majority=config), {"kernel": ones.at[i].set(1)}, shape) for i in range(3)]
    ).reshape(3, *[1] * (ones.ndim - 2), -1)
    assert not np.allclose(weights, 1 / 3)
    mixed = {**params, "kernel": mix(params["kernel"], jnp.broadcast_to(weights, (3, *[1] * (ones.ndim - 2), 5)))}
    assert_close(y, plain.apply({"params": mixed}, x))


def _kernel_of(layer, params, shape):
    """Return the weights [channels] of a draw, read off an input that meets one entry of the kernel alone."""
    x = jnp.zeros(shape).at[(0,) * (len(shape) - 1) + (0,)].set(1.0)
    return layer.apply({"params": params}, x, deterministic=False, rngs={"majority": KEY})[(0,) * (len(shape) - 1)]


def test_a_layer_cannot_share_its_draw_with_a_model():
    layer = MajorityDense(5, replace(THREE, share="model"))
    with pytest.raises(ConfigError, match="model"):
        layer.init(KEY, jnp.ones((2, 4)))
