"""Laws of residual networks: sizes, equal results by every path, blocks that add nothing, statistics in sight."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import assert_close

from lm.config import (
    RESNETS,
    Growth,
    MajorityKernels,
    MeshConfig,
    MLPConfig,
    OptimizerConfig,
    Recipe,
    ResNetConfig,
    TrainConfig,
)
from lm.losses import augmented, next_token
from lm.mesh import make_mesh, state_shardings
from lm.models import BatchNorm, GroupNorm, build, convolve
from lm.models.resnet import Block, Group, resolve
from lm.optim import make_optimizer
from lm.step import DATA, MODEL, init_state, make_step, purpose
from lm.strict import ConfigError
from lm.train import CALIBRATION, prepare
from lm.transforms import grow
from lm.transforms.statistics import calibrate, is_statistic
from lm.transforms.wrap import map_paths
from lm.types import Example, TrainState
from tasks.vision.digits import Digits

SIDE, B = 8, 4
SMALL = ResNetConfig(classes=3, channels=2, depth=1, groups=2, width=4, norm_groups=2)
BATCH = replace(SMALL, norm="batch")
VARIANTS = {
    "group": SMALL,
    "batch": BATCH,
    "pre group": replace(SMALL, preactivation=True),
    "pre batch": replace(BATCH, preactivation=True, widen=2),
    "bottleneck": replace(BATCH, block="bottleneck", depth=(1, 2)),
    "pre bottleneck": replace(SMALL, block="bottleneck", preactivation=True, stem="imagenet"),
    "pad": replace(BATCH, shortcut="pad", stem="imagenet"),
    "pre pad, no stack": replace(SMALL, shortcut="pad", preactivation=True, depth=0, dropout=0.5),
}
each_variant = pytest.mark.parametrize("name", VARIANTS)
KEY = jax.random.key(3)
# The laws hold at every level of optimisation; without any, programs compile in half the time.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def some_params(net, seed=9):
    """Return parameters far from any initialisation; variances are positive."""
    rng = np.random.default_rng(seed)

    def some(path, leaf):
        x = 0.5 * rng.standard_normal(leaf.shape)
        x = np.exp(x) if path.endswith("statistics/var") else x + path.endswith("scale")
        return jnp.asarray(x, leaf.dtype)

    return map_paths(some, jax.eval_shape(net.init, jax.random.key(0)))


@cache
def model(name):
    net = build(VARIANTS[name])
    return net, some_params(net), quick_jit(lambda p, b, key=None: net.apply(p, b, key).logits)


def make_batch(seed=0, count=B, channels=2, classes=3):
    rng = np.random.default_rng(seed)
    images = jnp.asarray(rng.standard_normal((count, SIDE, SIDE, channels)), jnp.float32)
    labels = jnp.asarray(rng.integers(classes, size=(count, 1)), jnp.int32)
    return Example(images, labels, jnp.ones((count, 1)), jnp.zeros((count, 1), jnp.int32), {})


def statistics_of(tree):
    """Return {path: leaf} of the running statistics of a tree of parameters."""
    found = {}
    map_paths(lambda path, leaf: found.update({path: leaf} if is_statistic(path) else {}), tree)
    return found


def weights_of(tree):
    return map_paths(lambda path, leaf: jnp.zeros(()) if is_statistic(path) else leaf, tree)


@pytest.mark.parametrize(
    ("name", "changes", "count"),
    [
        ("resnet18", {}, 11_689_512),
        ("resnet34", {}, 21_797_672),
        ("resnet50", {}, 25_557_032),
        ("resnet20", {}, 269_722),
        ("resnet20", {"shortcut": "projection"}, 272_474),
        ("resnet32", {}, 464_154),
        ("resnet56", {}, 853_018),
        ("wrn_28_10", {}, 36_479_194),
        ("wrn_16_4", {}, 2_748_890),
    ],
)
def test_published_networks_have_their_number_of_weights(name, changes, count):
    params = jax.eval_shape(build(replace(RESNETS[name], **changes)).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) - sum(
        leaf.size for leaf in statistics_of(params).values()
    ) == count  # fmt: skip


@each_variant
def test_scores_are_float32_and_do_not_depend_on_the_company(name):
    net, params, logits = model(name)
    batch = make_batch()
    scores = logits(params, batch)
    assert scores.shape == (B, 1, 3) and scores.dtype == jnp.float32 and np.ptp(scores, axis=0).min() > 0
    assert_close(logits(params, jax.tree.map(lambda x: x[1:2], batch)), scores[1:2])
    assert jax.tree.structure(state_shardings(params, make_mesh(MeshConfig(), jax.devices()[:1]))) == (
        jax.tree.structure(params)
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("size", "height"), [(1, 8), (3, 8), (3, 7), (7, 9)])
def test_both_forms_of_a_convolution_agree_forward_and_backward(size, height, stride, monkeypatch):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, height, height, 3)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((size, size, 3, 5)), jnp.float32)
    found = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        out, back = jax.vjp(lambda x, k: convolve(x, k, stride), x, kernel)
        found.append((out, back(jnp.sin(out))))
    assert found[0][0].shape == (2, -(-height // stride), -(-height // stride), 5)
    assert_close(*found, tolerance=1e-4)  # sums of up to 1,000 products


@pytest.mark.parametrize("name", ["batch", "pre bottleneck"])
def test_a_stack_is_its_blocks_one_after_the_other(name):
    config = resolve(replace(VARIANTS[name], depth=3))
    params = some_params(build(config))["group1"]
    x = whole = make_batch(channels=config.width).inputs
    layers = [params["first"], *(jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"]) for i in range(3))]
    for layer in layers:
        x, _ = Block(config, config.width).apply({"params": layer}, x)
    whole = Group(config, 0, 3, training=False).apply({"params": params}, whole)
    assert_close(whole / jnp.abs(x).max(), x / jnp.abs(x).max())


@pytest.mark.parametrize("name", ["group", "batch", "pre group", "bottleneck"])
def test_a_block_added_with_scale_zero_changes_nothing(name):
    shallow, deep = (replace(VARIANTS[name], depth=depth) for depth in (1, 2))
    nets = [build(config) for config in (shallow, deep)]
    states = [TrainState(jnp.int32(0), some_params(net), (), None, KEY) for net in nets]
    grown = grow(*states, Growth(depths=(1, 2), scale=0.0)).params
    assert jax.tree.structure(grown) == jax.tree.structure(states[1].params)
    params = (states[0].params, grown)
    for key in (None, KEY):
        scores = [quick_jit(net.apply)(p, make_batch(), key).logits for net, p in zip(nets, params, strict=True)]
        assert_close(*scores)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_is_its_closed_form(groups):
    x = np.asarray(make_batch(channels=6).inputs, np.float64) * 3 + 1
    parts = x.reshape(B, -1, groups, 6 // groups)
    mean, var = parts.mean(axis=(1, 3), keepdims=True), parts.var(axis=(1, 3), keepdims=True)
    expected = ((parts - mean) / np.sqrt(var + 1e-5)).reshape(x.shape) * 2 + 7
    params = {"scale": jnp.full(6, 2.0), "bias": jnp.full(6, 7.0)}
    assert_close(GroupNorm(groups).apply({"params": params}, jnp.asarray(x, jnp.float32)), expected)


def test_batch_norm_uses_the_batch_in_training_and_the_running_statistics_elsewhere():
    x = make_batch().inputs * 3 + 1
    running = {"mean": jnp.array([1.0, -1.0]), "var": jnp.array([4.0, 0.25])}
    params = {"scale": jnp.ones(2), "bias": jnp.zeros(2), "statistics": running}
    trained, used = (BatchNorm(training=training).apply({"params": params}, x) for training in (True, False))
    assert_close(trained, (x - x.mean((0, 1, 2), keepdims=True)) / jnp.sqrt(x.var((0, 1, 2), keepdims=True) + 1e-5))
    root = jnp.sqrt(running["var"] + 1e-5)
    assert_close(used, (x - running["mean"][None, None, None]) / root[None, None, None])


def gradient(net, params, batch, times=1.0):
    return quick_jit(jax.grad(lambda p: times * next_token(net.apply, p, batch, KEY)[0]))(params)


def test_statistics_move_towards_the_batch_whatever_the_loss():
    net, params, _ = model("batch")
    found, batch = gradient(net, params, make_batch()), make_batch()
    assert_close(statistics_of(gradient(net, params, batch, times=100.0)), statistics_of(found))
    # Other running values change their own gradient by just as much, times 1 - momentum, and no other.
    moved = map_paths(lambda path, leaf: leaf + 5.0 * is_statistic(path), params)
    other = gradient(net, moved, batch)
    assert_close(weights_of(other), weights_of(found))
    assert_close(statistics_of(other), {path: leaf + 0.5 for path, leaf in statistics_of(found).items()}, 1e-4)


def still(net, **settings):
    """Return an optimizer that moves weights by next to nothing."""
    config = OptimizerConfig(learning_rate=1e-30, schedule="constant", **settings)
    return make_optimizer(config, lambda step: config.learning_rate)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_statistics_are_the_exponential_average_computed_by_hand(accumulate):
    net, steps = build(BATCH), 4
    optimizer = still(net, name="adamw", clip=1e-3, weight_decay=0.1)
    state = init_state(net, optimizer, KEY)
    step = quick_jit(make_step(net, next_token, optimizer, accumulate=accumulate))
    mean, var, stem = np.zeros(4), np.ones(4), state.params["stem"]["kernel"]
    for i in range(steps):
        batch = make_batch(seed=i)
        state, _ = step(state, batch)
        parts = [convolve(x, stem) for x in jnp.split(batch.inputs, accumulate)]
        mean = 0.9 * mean + 0.1 * np.mean([x.mean((0, 1, 2)) for x in parts], axis=0)
        var = 0.9 * var + 0.1 * np.mean([x.var((0, 1, 2)) for x in parts], axis=0)
    assert_close(state.params["stem_norm"]["statistics"], {"mean": mean, "var": var})


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_rule_for_weights_does_not_see_statistics(name):
    params = {"a": {"kernel": jnp.ones((2, 2))}, "norm": {"statistics": {"mean": jnp.full(2, 3.0)}}}
    gradient = jax.tree.map(lambda p: 10.0 * p, params)
    config = OptimizerConfig(name=name, learning_rate=0.1, clip=1.0, weight_decay=0.5, decay_pattern=".*")
    optimizer = make_optimizer(config, lambda step: 0.1)
    state = optimizer.init(params)
    alone = optimizer.init({"a": params["a"]})
    assert [x.shape for x in jax.tree.leaves(state)] == [x.shape for x in jax.tree.leaves(alone)]
    updates, _ = optimizer.update(gradient, state, params)
    expected, _ = optimizer.update({"a": gradient["a"]}, alone, {"a": params["a"]})
    assert_close(updates["a"], expected["a"])
    assert_close(updates["norm"]["statistics"]["mean"], jnp.full(2, -30.0))


def test_calibrated_on_one_batch_a_net_scores_it_as_in_training():
    net, batch = build(replace(BATCH, groups=1, preactivation=True)), make_batch()
    params, logits = some_params(net), lambda *arguments: net.apply(*arguments).logits
    assert not np.allclose(logits(params, batch), logits(params, batch, KEY), atol=0.1)
    calibrated = calibrate(net, params, [batch], KEY)
    assert_close(weights_of(calibrated), weights_of(params), 0)
    assert_close(logits(calibrated, batch), logits(params, batch, KEY), 1e-4)
    several = calibrate(net, params, [batch, make_batch(1)], KEY)
    one, other = (statistics_of(p) for p in (calibrated, calibrate(net, params, [make_batch(1)], KEY)))
    assert_close(statistics_of(several), jax.tree.map(lambda a, b: (a + b) / 2, one, other))
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate(net, params, [], KEY)


def test_dropout_acts_in_training_alone():
    net, params, logits = model("pre pad, no stack")
    batch = make_batch()
    assert not np.allclose(logits(params, batch, KEY), logits(params, batch, jax.random.key(4)))
    assert_close(logits(params, batch), logits(params, batch), 0)


ACROSS = """
import sys
sys.path.append("tests")
import jax, numpy as np
from jax.sharding import PartitionSpec
from lm.config import MeshConfig
from lm.losses import next_token
from lm.mesh import make_mesh, put_batch, state_shardings
from lm.step import DATA, MODEL, init_state, make_step, purpose
from lm.train import CALIBRATION, prepare
from tests.test_resnet import BATCH, KEY, build, make_batch, still
net = build(BATCH)
optimizer = still(net)
found = []
for devices, mesh in ((1, MeshConfig()), (8, MeshConfig(fsdp=2, tensor=2))):
    mesh = make_mesh(mesh, jax.devices()[:devices])
    state = init_state(net, optimizer, KEY)
    shardings = state_shardings(jax.eval_shape(lambda: state), mesh)
    step = jax.jit(make_step(net, next_token, optimizer), out_shardings=(shardings, None))
    state, metrics = step(jax.device_put(state, shardings), put_batch(make_batch(count=8), mesh))
    found.append(jax.device_get((state.params, metrics)))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *found)
"""


def test_eight_devices_find_the_statistics_of_the_whole_batch():
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", ACROSS], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_objective_sees_the_batch_that_augment_returns():
    net, params, _ = model("group")

    def brighten(key, batch):
        return batch._replace(inputs=batch.inputs + jax.random.normal(key, batch.inputs.shape))

    seen = {}

    def objective(apply, params, batch, key):
        seen["inputs"] = batch.inputs
        return next_token(apply, params, batch, key)

    assert augmented(objective, None) is objective
    inputs = []
    for key in (KEY, KEY, jax.random.key(4)):
        augmented(objective, brighten)(net.apply, params, make_batch(), key)
        inputs.append(np.asarray(seen["inputs"] - make_batch().inputs))
    assert_close(inputs[0], inputs[1], 0)
    assert np.abs(inputs[0] - inputs[2]).max() > 1 and 0.8 < inputs[0].std() < 1.2


def test_a_perceptron_reads_images():
    net = build(MLPConfig(inputs=2 * SIDE * SIDE, outputs=3, vocabulary=None, width=4))
    assert net.apply(net.init(KEY), make_batch()).logits.shape == (B, 1, 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"block": "basik"}, "model.block"),
        ({"stem": "none"}, "model.stem"),
        ({"shortcut": "identity"}, "model.shortcut"),
        ({"norm": "layer"}, "model.norm"),
        ({"depth": (1, 1, 1)}, "model.depth needs a number >= 0 for each of 2 groups"),
        ({"depth": -1}, "model.depth"),
        ({"norm_groups": 3}, "model.width 4 is not a multiple of model.norm_groups 3"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"momentum": -0.1}, "model.momentum"),
        ({"classes": 0}, "model.classes"),
        ({"dtype": "float16"}, "model.dtype"),
    ],
)
def test_impossible_networks_are_refused_by_name(changes, said):
    with pytest.raises(ConfigError, match=said):
        build(replace(SMALL, **changes))


def test_weights_for_use_have_statistics_of_their_own():
    model = ResNetConfig(groups=1, depth=0, width=4, norm="batch")
    train = TrainConfig(steps=4, batch_size=8)
    recipe = Recipe(task=Digits(), model=model, train=train, transforms=(MajorityKernels(factor=2),))
    run = prepare(recipe, None)
    used = run.settle(run.init().params)
    draw = jax.jit(run.source.draw)
    batches = [draw(purpose(jax.random.key(0), DATA), jnp.int32(step)) for step in range(CALIBRATION)]
    if run.source.augment is not None:
        keys = [jax.random.fold_in(purpose(jax.random.key(0), MODEL), step) for step in range(CALIBRATION)]
        batches = [run.source.augment(key, batch) for key, batch in zip(keys, batches, strict=True)]
    first = [convolve(batch.inputs, used["stem"]["kernel"]).mean((0, 1, 2)) for batch in batches]
    assert_close(used["stem_norm"]["statistics"]["mean"], sum(first) / CALIBRATION, 1e-5)
    plain = prepare(replace(recipe, transforms=()), None)
    params = plain.init().params
    assert plain.settle(params) is params
