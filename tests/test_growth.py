"""Growth by stacking: the schedules, what each growth preserves, staged runs, and tied depth."""

import dataclasses
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import assert_same

from lm.config import (
    BlockScales,
    Growth,
    Looped,
    MajorityKernels,
    MLPConfig,
    OptimizerConfig,
    Recipe,
    ResNetConfig,
    RNNConfig,
    TrainConfig,
    TransformerConfig,
)
from lm.flops import count_flops
from lm.losses import next_token
from lm.models import build
from lm.optim import schedule_of
from lm.report.folder import read_status
from lm.step import init_state, make_step
from lm.strict import ConfigError
from lm.sweep import run_sweep
from lm.train import build_net, fit, parts_of, prepare
from lm.transforms import ema, grow, index_map, preserved, stages_from, stages_of
from lm.transforms.stacking import stage_lengths
from lm.transforms.wrap import is_stacked, map_paths
from tasks.formal.flip_flop.language import FlipFlop
from tasks.formal.groups.modular_arithmetic import ModularArithmetic
from tasks.vision.digits import Digits

ROOT = Path(__file__).parent.parent
TASK = FlipFlop(length=16)
RECIPE = Recipe(
    task=TASK,
    model=TransformerConfig(vocabulary=5, depth=4, width=8, heads=2),
    optimizer=OptimizerConfig(learning_rate=1e-2),
    train=TrainConfig(steps=12, batch_size=8, steps_per_dispatch=4, log_every=5, save_every=4, ema=0.9),
    growth=Growth((1, 2, 4)),
    transforms=(MajorityKernels(factor=2),),
    name="grown",
)
MODELS = {
    "transformer": (TASK, TransformerConfig(vocabulary=5, width=8, heads=2)),
    "parallel": (TASK, TransformerConfig(vocabulary=5, width=8, heads=2, parallel=True, bias=True, norm="layer")),
    "lstm": (TASK, RNNConfig(vocabulary=5, width=8)),
    "resnet": (Digits(), ResNetConfig(groups=2, width=4, norm_groups=2)),
    "batch-norm wide resnet": (Digits(), ResNetConfig(groups=2, width=4, norm="batch", preactivation=True)),
    "mlp": (ModularArithmetic(modulus=7), MLPConfig(vocabulary=7, outputs=7, embedding=4, width=8)),
}
NOT_RESIDUAL = ("lstm", "mlp")
PLANS = {
    "append a copy": Growth((2, 3)),
    "double": Growth((2, 4)),
    "repeat the middle": Growth((2, 3), place="middle"),
    "zero": Growth((2, 3), fill="random", scale=0.0),
    "random": Growth((2, 3), fill="random"),
    "scaled copy": Growth((2, 3), scale=0.5),
    "copy that adds nothing, in the middle": Growth((2, 3), place="middle", scale=0.0),
    "copy with a fresh optimizer": Growth((2, 3), moments="reset"),
}


def with_growth(growth, **more):
    return dataclasses.replace(RECIPE, growth=growth, **more)


@pytest.mark.parametrize("alpha", (0.0, 1.0, 2.0, 3.0, 0.7))
@pytest.mark.parametrize("steps", (1000, 1001, 54_321))
def test_stage_lengths_are_whole_and_sum_to_the_steps(alpha, steps):
    lengths = stage_lengths(Growth((1, 2, 3, 4, 5, 6), alpha=alpha), steps)
    assert sum(lengths) == steps
    assert list(lengths) == sorted(lengths)


@pytest.mark.parametrize(("alpha", "share"), [(1, (91, 126)), (2, (441, 546)), (3, (2275, 2646))])
def test_proportional_stages_save_the_published_share_of_the_compute(alpha, share):
    # T = 126 * 546 * 2646 steps divide evenly, so that the share is exact.
    steps = 126 * 546 * 2646
    lengths = stage_lengths(Growth((1, 2, 3, 4, 5, 6), alpha=float(alpha)), steps)
    compute = sum(Fraction(i * length, 6 * steps) for i, length in enumerate(lengths, start=1))
    assert compute == Fraction(*share)


def test_other_schedules():
    assert stage_lengths(Growth((3, 6, 12), schedule="doubling"), 70) == (10, 20, 40)
    assert stage_lengths(Growth((3, 6), schedule="explicit", steps=(5, 2)), 7) == (5, 2)
    with pytest.raises(ConfigError, match="sum to 7, train.steps is 8"):
        stage_lengths(Growth((3, 6), schedule="explicit", steps=(5, 2)), 8)
    with pytest.raises(ConfigError, match="train for more"):
        stage_lengths(Growth((1, 2, 3)), 3)
    with pytest.raises(ConfigError, match="must end at model.depth 4"):
        stages_of(with_growth(Growth((1, 2))))


def test_index_maps_are_those_of_the_papers():
    assert index_map("top", 4, 6).source == (0, 1, 2, 3, 2, 3)
    assert index_map("middle", 4, 6).source == (0, 1, 0, 1, 2, 3)
    assert index_map("middle", 6, 8).source == (0, 1, 2, 3, 2, 3, 4, 5)
    assert index_map("top", 4, 8).source == (0, 1, 2, 3, 0, 1, 2, 3)
    for place, (old, new) in itertools.product(("top", "middle"), [(2, 3), (3, 4), (4, 6), (6, 12), (5, 7)]):
        source, added = index_map(place, old, new)
        assert [s for i, s in enumerate(source) if i not in added] == list(range(old))
        assert len(source) == new
    with pytest.raises(ConfigError, match="cannot grow to 5"):
        index_map("top", 2, 5)


@functools.cache
def begun(name, depth, steps):
    """Return a net, its state after some steps, and its logits on a batch as a jitted function."""
    task, model = MODELS[name]
    net = build(dataclasses.replace(model, depth=depth))
    objective, optimizer, average = parts_of(RECIPE)
    batch = task.draw(jax.random.key(1), 4)
    state = jax.jit(lambda: init_state(net, optimizer, jax.random.key(0), average))()
    step = jax.jit(make_step(net, objective, optimizer, average=average))
    for _ in range(steps):
        state, _ = step(state, batch)
    return net, state, jax.jit(lambda params: net.apply(params, batch).logits), batch


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("plan", PLANS)
def test_a_growth_preserves_what_it_declares(name, plan):
    growth = PLANS[plan]
    _, old, short_logits, _ = begun(name, growth.depths[0], 2)
    _, fresh, tall_logits, _ = begun(name, growth.depths[1], 0)
    if growth.scale != 1.0 and name in NOT_RESIDUAL:
        with pytest.raises(ConfigError, match="names no parameter"):
            grow(old, fresh, growth)
        return
    new = grow(old, fresh, growth)
    layers = index_map(growth.place, *growth.depths)
    kept = [i for i in range(growth.depths[1]) if i not in layers.added]
    declared = preserved(growth)

    def all_equal(before, after, at):
        """Say whether the layers `at` are those of the map, and all beside the stacks is as it was."""
        sources = np.array(layers.source)[at]

        def same(path, old, new):
            return np.array_equal(old[sources], new[np.array(at)]) if is_stacked(path) else np.array_equal(old, new)

        return all(jax.tree.leaves(map_paths(same, before, after)))

    adam, grown_adam = old.opt_state[1], new.opt_state[1]
    found = set()
    if all_equal(old.params, new.params, kept) and all_equal(old.ema, new.ema, kept):
        found.add("layers")
    if all_equal(old.params, new.params, list(layers.added)):
        found.add("copies")
    if all(all_equal(a, b, kept) for a, b in ((adam.mu, grown_adam.mu), (adam.nu, grown_adam.nu))):
        found.add("moments")
        assert grown_adam.count == adam.count
    before, after = short_logits(old.params), tall_logits(new.params)
    if np.allclose(before, after, atol=1e-6):
        found.add("outputs")
        # Around convolutions the compiler fuses the two networks differently.
        assert np.array_equal(before, after) or "resnet" in name
    assert found == declared
    assert new.step == old.step
    assert new.opt_state[-1].count == 2, "the learning rate goes on in its course"


def test_new_moments_of_a_random_block_are_zero_and_copies_go_apart():
    old = begun("transformer", 2, 2)[1]
    tall, fresh, _, batch = begun("transformer", 3, 0)
    new = grow(old, fresh, Growth((2, 3), fill="random"))
    assert all(not jnp.any(leaf[2]) for leaf in jax.tree.leaves(new.opt_state[1].mu["blocks"]))
    new = grow(old, fresh, Growth((2, 3)))
    gradient = jax.grad(lambda p: next_token(tall.apply, p, batch, None)[0])(new.params)
    for leaf in jax.tree.leaves(gradient["blocks"]):
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf[1]) and np.any(leaf[2]) and np.any(leaf[1] != leaf[2])


def test_a_stack_that_was_empty_cannot_be_mapped():
    with pytest.raises(ConfigError, match="empty"):
        grow(begun("mlp", 0, 0)[1], begun("mlp", 1, 0)[1], Growth((1, 2)))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return fit(RECIPE, folder, quiet=True), folder


def test_a_staged_run_stopped_anywhere_repeats_the_uninterrupted_one(straight, tmp_path):
    # Stages end at 2, 6 and 12: stops before, at and behind each growth.
    for until in (1, 2, 3, 6, 7, 12):
        stopped = fit(RECIPE, tmp_path, until=until, quiet=True)
        depth = stages_from(RECIPE, until)[0].recipe.model.depth
        assert jax.tree.leaves(stopped.params["blocks"])[0].shape[0] == depth
    assert_same(straight[0].state, stopped.state)
    assert straight[0].evaluation == stopped.evaluation


KILLED = """
import os, signal, sys
sys.path.append("tests")
from pathlib import Path
from lm.checkpoint import Checkpoints
from tests.test_growth import RECIPE, fit

save, wait = Checkpoints.save, Checkpoints.wait

def before(self, step, *more):
    if step == 6:
        wait(self)
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, step, *more)

def behind(self):
    wait(self)
    if Path(sys.argv[1], "checkpoints", "2").is_dir():
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "before":
    Checkpoints.save = before
else:
    Checkpoints.wait = behind
fit(RECIPE, sys.argv[1], quiet=True)
"""


def test_a_kill_at_a_growth_costs_no_more_than_any_other(straight, tmp_path):
    # The first growth, at 2, when its checkpoint is whole; the second, at 6, when its checkpoint is to be written.
    for place, newest in (("behind", 2), ("before", 4)):
        line = [sys.executable, "-c", KILLED, str(tmp_path), place]
        assert subprocess.run(line, cwd=ROOT, timeout=300).returncode == -signal.SIGKILL
        assert max(int(path.name) for path in (tmp_path / "checkpoints").glob("*") if path.name.isdecimal()) == newest
        assert read_status(tmp_path)["state"] == "lost"
    resumed = fit(RECIPE, tmp_path, quiet=True)
    assert_same(straight[0].state, resumed.state)
    assert straight[0].evaluation == resumed.evaluation


def test_a_growth_happens_on_one_mesh_or_another(straight, tmp_path):
    # Eight devices take the first growth, at 2, and save behind it; one device takes the second, at 6.
    code = f"""
import sys
sys.path.append("tests")
from lm.train import fit, prepare
from lm.config import MeshConfig
from tests.test_growth import RECIPE, dataclasses
fit(dataclasses.replace(RECIPE, mesh=MeshConfig(fsdp=2, tensor=2)), {str(tmp_path)!r}, until=3, quiet=True)
"""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=300)
    moved = fit(RECIPE, tmp_path, quiet=True)
    for x, y in zip(jax.tree.leaves(moved.state.params), jax.tree.leaves(straight[0].state.params), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-4)


def test_a_staged_run_reports_its_stages_and_its_operations(straight):
    summary = json.loads((straight[1] / "summary.json").read_text())
    assert [(s["depth"], s["start"], s["stop"]) for s in summary["stages"]] == [(1, 0, 2), (2, 2, 6), (4, 6, 12)]
    one, two, four = (s["step_flops"] for s in summary["stages"])
    assert four - two == 2 * (two - one), "operations are linear in depth"
    assert summary["flops"] == 2 * one + 4 * two + 6 * four
    assert summary["flops_full_depth"] == 12 * four
    page = (straight[1] / "report.html").read_text()
    assert "depth 2" in page and "against full depth" in page


def test_stages_share_their_data_and_compile_once_each(tmp_path, monkeypatch):
    asked, source = [], FlipFlop.source
    monkeypatch.setattr(FlipFlop, "source", lambda *arguments: asked.append(1) or source(*arguments))
    runs = []
    monkeypatch.setattr("lm.train.prepare", lambda *arguments: runs.append(prepare(*arguments)) or runs[-1])
    fit(RECIPE, tmp_path, quiet=True)
    assert len(asked) == 1
    assert [run.stretch._cache_size() for run in runs] == [1, 1, 1]


def test_members_of_a_staged_sweep_equal_single_runs(straight):
    member = run_sweep(RECIPE, {}, seeds=(0, 1)).members[0]
    for x, y in zip(jax.tree.leaves(straight[0].state.params), jax.tree.leaves(member.state.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    assert [step for step, _ in member.losses] == [2, 5, 6, 10, 12]


def test_the_rate_rises_again_after_each_growth():
    config = OptimizerConfig(learning_rate=1.0, schedule="constant")
    recipe = with_growth(Growth((1, 2, 4), rewarm_steps=2), optimizer=config)
    rates = [float(schedule_of(recipe)(step)) for step in range(8)]
    assert rates == [1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 0.5, 1.0]


def test_flops_are_those_of_the_formula():
    a, b = jnp.zeros((3, 4)), jnp.zeros((4, 5))
    assert count_flops(lambda x, y: x @ y, a, b) == 2 * 3 * 4 * 5
    assert count_flops(lambda x, y: (2 * (x @ y), x)[1], a, b) == 0  # nobody wants it

    def loop(x):
        return jax.lax.scan(lambda carry, _: (carry @ jnp.eye(4), None), x, length=7)[0]

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert count_flops(loop, a) == 7 * 2 * 3 * 4 * 4
    images, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 6))
    assert count_flops(convolve, images, kernel) == 2 * (2 * 4 * 4 * 6) * (3 * 3 * 3)


def test_looped_depth_is_the_model_with_copies():
    model = TransformerConfig(vocabulary=5, depth=6, width=8, heads=2)
    recipe = with_growth(None, model=model, transforms=(Looped(2),))
    plain, net, settled = build_net(recipe)
    params = net.init(jax.random.key(0))
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(params["blocks"]))
    expanded = settled(params)
    assert all(jnp.all(leaf[:2] == leaf[4:]) for leaf in jax.tree.leaves(expanded["blocks"]))
    batch = TASK.draw(jax.random.key(1), 4)
    np.testing.assert_array_equal(net.apply(params, batch).logits, plain.apply(expanded, batch).logits)
    # The gradient of a tied layer is the sum over its copies.
    tied = jax.grad(lambda p: next_token(net.apply, p, batch, None)[0])(params)
    free = jax.grad(lambda p: next_token(plain.apply, p, batch, None)[0])(expanded)
    for one, six in zip(jax.tree.leaves(tied["blocks"]), jax.tree.leaves(free["blocks"]), strict=True):
        np.testing.assert_allclose(one, six.reshape(3, *one.shape).sum(0), atol=1e-6)
    with pytest.raises(ConfigError, match="not a multiple of transforms.layers 4"):
        build_net(dataclasses.replace(recipe, transforms=(Looped(4),)))


def test_looped_models_grow_by_more_turns():
    recipe = with_growth(Growth((2, 4)), transforms=(Looped(2),))
    (_, short, _), (_, tall, _) = (build_net(stage.recipe) for stage in stages_of(recipe))
    optimizer = parts_of(recipe)[1]
    old, fresh = (init_state(net, optimizer, jax.random.key(seed), ema(0.9)) for seed, net in enumerate((short, tall)))
    assert_same(grow(old, fresh, recipe.growth).params, old.params)


def test_trainable_scales_start_at_one_and_take_beta_at_a_growth():
    growth = Growth((2, 3), scale=0.5, scaled=r"branch_scale$")
    recipe = with_growth(growth, model=dataclasses.replace(RECIPE.model, depth=3), transforms=(BlockScales(),))
    (_, short, settled), (_, tall, _) = (build_net(stage.recipe) for stage in stages_of(recipe))
    optimizer = parts_of(recipe)[1]
    old, fresh = (init_state(net, optimizer, jax.random.key(0)) for net in (short, tall))
    batch = TASK.draw(jax.random.key(1), 4)
    params = {**old.params, "blocks": {k: v for k, v in old.params["blocks"].items() if k != "branch_scale"}}
    assert_same(settled(old.params), params)
    new = grow(old, fresh, growth)
    assert new.params["blocks"]["branch_scale"].tolist() == [1.0, 1.0, 0.5]
    fixed = grow(old, fresh, dataclasses.replace(growth, scaled=Growth.scaled)).params
    for path in (("attention", "output"), ("feedforward", "down")):
        scaled = build_net(stages_of(recipe)[1].recipe)[2](new.params)["blocks"][path[0]][path[1]]["kernel"]
        np.testing.assert_array_equal(scaled, fixed["blocks"][path[0]][path[1]]["kernel"])
    gradient = jax.grad(lambda p: next_token(tall.apply, p, batch, None)[0])(new.params)
    assert np.all(gradient["blocks"]["branch_scale"] != 0)
