"""Laws of the guard: a bad step changes nothing, is counted and named; too many end the run at its last good step."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_checkpoint import run_child
from trees import assert_same

from lm.checkpoint import Checkpoints
from lm.config import Growth, Guard, MLPConfig, OptimizerConfig, Recipe, TrainConfig
from lm.exits import Diverged
from lm.guard import culprits, make_guard
from lm.step import init_state, make_step
from lm.sweep import run_sweep
from lm.train import fit, prepare
from lm.transforms import ema
from lm.types import Evaluation, Example, Mean, Net, Outputs, Source
from tasks.task import Task

BATCH, BAD_ROW = 8, 5
GUARD = Guard()


def linear_loss(apply, params, batch, key):
    """The square error of a linear net; where `info` says so, a gradient without bound beside a finite loss."""
    errors_B = (apply(params, batch).features - batch.targets)[:, 0]
    first = params["kernel"][0, 0]
    steep_B = jnp.sqrt(jnp.where(batch.info["steep"], first - jax.lax.stop_gradient(first), 1.0)) - 1.0
    losses_B = jnp.square(errors_B) + steep_B
    return jnp.mean(losses_B), {"loss": Mean(jnp.sum(losses_B), jnp.float32(len(losses_B)))}


LINEAR = Net(
    init=lambda key: {"kernel": jax.random.normal(key, (3, 1))},
    apply=lambda params, batch, key=None: Outputs(batch.inputs @ params["kernel"]),
)


def linear_batch(step, poison=None):
    rng = np.random.default_rng(step)
    inputs_BL = rng.normal(size=(BATCH, 3)).astype(np.float32)
    targets_BL = inputs_BL[:, :1] - inputs_BL[:, 1:2]
    steep_B = np.zeros(BATCH, bool)
    if poison == "steep":
        steep_B[BAD_ROW] = True
    elif poison is not None:
        targets_BL[BAD_ROW] = {"nan": np.nan, "infinite": 1e30, "spike": 1e6}[poison]
    return Example(inputs_BL, targets_BL, np.ones((BATCH, 1), np.float32), None, {"steep": steep_B})


def test_the_judge_wants_all_of_it_finite_and_stops_where_the_budget_is_spent():
    guard = make_guard(Guard(budget=2))
    state, fine = guard.init(), (1.0, 1.0, 1.0)
    for figures in (
        (math.nan, 1.0, 1.0),
        fine,
        (1.0, math.inf, 1.0),
        fine,
        (1.0, 1.0, math.nan),
        (-math.inf, 1.0, 1.0),
    ):
        good, state = guard.judge(state, *map(jnp.float32, figures))
        assert bool(good) == (figures == fine), figures
    good, state = guard.judge(state, *map(jnp.float32, fine))
    assert not good and (int(state.skipped), int(state.in_a_row), int(state.seen)) == (5, 3, 2)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("poison", ["nan", "infinite", "steep", "spike"])
def test_a_bad_step_leaves_everything_but_the_counters(poison, accumulate):
    guard = make_guard(Guard(spike=100.0, warmup=4), window=3)
    optimizer, average = optax.adamw(1e-2), ema(0.9)
    step = jax.jit(make_step(LINEAR, linear_loss, optimizer, None, accumulate, average, guard))
    state = init_state(LINEAR, optimizer, jax.random.key(0), average, guard)
    for number in range(8):
        before, bad = state, number in (5, 7)
        state, metrics = step(state, linear_batch(number, poison if bad else None))
        assert int(state.step) == number + 1
        expected = np.eye(3)[number % 3] if bad else np.zeros(3)
        np.testing.assert_array_equal(metrics["skipped"].sum, expected)
        assert float(metrics["loss"].count) == (0 if bad else BATCH) and math.isfinite(float(metrics["loss"].sum))
        unmoved = (state.params, state.opt_state, state.ema), (before.params, before.opt_state, before.ema)
        if bad:
            assert_same(*unmoved)
        else:
            assert not np.array_equal(*(tree[0]["kernel"] for tree in unmoved))
    assert (int(state.guard.skipped), int(state.guard.in_a_row), int(state.guard.seen)) == (2, 1, 6)


def test_a_spike_counts_only_where_it_is_asked_for_and_behind_the_warmup():
    optimizer = optax.sgd(1e-9)
    for config, taken in ((Guard(), 3), (Guard(spike=100.0, warmup=3), 3), (Guard(spike=100.0, warmup=2), 2)):
        guard = make_guard(config)
        step = jax.jit(make_step(LINEAR, linear_loss, optimizer, guard=guard))
        state = init_state(LINEAR, optimizer, jax.random.key(0), guard=guard)
        for number in range(3):
            state, _ = step(state, linear_batch(number, "spike" if number == 2 else None))
        assert int(state.guard.seen) == taken, config


@pytest.mark.parametrize(
    ("size", "bad", "found"),
    [
        (8, lambda rows: 3 in rows, [3]),
        (7, lambda rows: {0, 6} & set(rows), [0, 6]),
        (8, lambda rows: {4, 5} <= set(rows), [4, 5]),  # together only
        (8, lambda rows: {3, 4} <= set(rows), []),  # no half is bad
        (64, lambda rows: True, []),
        (1, lambda rows: True, []),
    ],
)
def test_rows_that_make_a_batch_bad_are_found_by_halving(size, bad, found):
    asked = []
    assert culprits(lambda rows: bool(bad(rows)) and not asked.append(rows), size) == found
    assert len(asked) <= 2 * 4 * math.log2(max(size, 2))


@dataclasses.dataclass(frozen=True)
class Sums(Task):
    """Two numbers and their sum modulo 7, read by position or drawn; at the batches `bad` one row asks for NaN."""

    bad: tuple[int, ...] = ()
    only_process: int | None = None
    drawn: bool = False
    shift: tuple[int, int] = (10**9, 0)  # from this batch on, the data of so many batches later
    last: int = 10**9

    name = "sums"
    vocabulary = 7
    train_sizes = (1, 1)

    def at(self, step):
        step += self.shift[1] * (step >= self.shift[0])
        if step > self.last:
            raise IndexError(step)
        pairs_BL = np.random.default_rng(step).integers(0, 7, (BATCH, 2)).astype(np.int32)
        weights_BL = np.ones((BATCH, 1), np.float32)
        if step in self.bad and self.only_process in (None, jax.process_index()):
            weights_BL[BAD_ROW] = np.nan
        return Example(pairs_BL, pairs_BL.sum(1, keepdims=True) % 7, weights_BL, np.zeros((BATCH, 1), np.int32), {})

    def draw(self, key, step):
        pairs_BL = jax.random.randint(jax.random.fold_in(key, step), (BATCH, 2), 0, 7)
        bad = jnp.any(step == jnp.array((-1, *self.bad))) & (jnp.arange(BATCH) == BAD_ROW)
        weights_BL = jnp.where(bad, jnp.nan, 1.0)[:, None]
        return Example(pairs_BL, pairs_BL.sum(1, keepdims=True) % 7, weights_BL, jnp.zeros((BATCH, 1), jnp.int32), {})

    def source(self, recipe, folder):
        evaluate = lambda net, params, key: Evaluation({}, {}, [])  # noqa: E731
        if self.drawn:
            return Source(self.draw, None, evaluate, {})
        return Source(None, self.at, evaluate, {}, ids=lambda step: [100 * step + row for row in range(BATCH)])


def recipe(task, guard=GUARD, **train):
    settings = {"steps": 12, "batch_size": BATCH, "steps_per_dispatch": 3, "log_every": 6, "save_every": 5, "ema": 0.9}
    return Recipe(
        task=task,
        model=MLPConfig(inputs=2, outputs=7, vocabulary=7, embedding=8, width=16),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2, weight_decay=0.1),
        train=TrainConfig(**(settings | train), guard=guard),
        name="sums",
    )


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# As a user's programs are compiled: with fewer optimisations the last bits follow what the compiler fuses.
AS_SHIPPED = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_use_fusion_emitters": True,
}


def test_a_run_without_a_bad_step_is_bit_for_bit_what_it_is_without_a_guard(tmp_path):
    ends = []
    for guard in (Guard(spike=1e3, warmup=2), None):
        run = prepare(recipe(Sums(drawn=True), guard), tmp_path)
        state = run.init(None)
        stretch = run.stretch.lower(state, None, 3).compile(compiler_options=AS_SHIPPED)
        for _ in range(4):
            state, metrics = stretch(state, None, 3)
        ends.append((state._replace(guard=None), metrics["loss"]))
        assert ("skipped" in metrics) == (guard is not None)
    assert_same(*ends)


@pytest.mark.parametrize("drawn", [True, False])
def test_bad_steps_are_counted_and_their_examples_named(tmp_path, drawn):
    straight = fit(recipe(Sums(bad=(4, 6, 7), drawn=drawn), accumulate=2), tmp_path / "straight", quiet=True)
    assert straight.summary["skipped"] == 3 == int(straight.state.guard.skipped)
    notes = [row for row in rows_of(tmp_path / "straight") if "examples" in row]
    ids = (lambda i: {}) if drawn else (lambda i: {"ids": [100 * i + row for row in range(BATCH)]})
    assert notes == [
        {"step": i + 1, "skipped": n, "examples": {"batch": i, "rows": [BAD_ROW], **ids(i)}}
        for n, i in enumerate((4, 6, 7), start=1)
    ]
    assert all(math.isfinite(row["loss"]) for row in rows_of(tmp_path / "straight") if "loss" in row)
    named = "" if drawn else f", examples {600 + BAD_ROW}"
    log = (tmp_path / "straight" / "log.txt").read_text()
    assert f"step 7 was not taken (2 so far): batch 6, rows {BAD_ROW}{named}\n" in log
    if drawn:
        return
    for until in (5, 7, None):  # the second stop lies between two bad steps
        stopped = fit(recipe(Sums(bad=(4, 6, 7)), accumulate=2), tmp_path / "b", until=until, quiet=True)
    assert_same(stopped.state, straight.state)
    assert [row for row in rows_of(tmp_path / "b") if "examples" in row] == notes


def test_a_spent_budget_ends_the_run_at_its_last_good_step(tmp_path):
    bad = recipe(Sums(bad=(6, 7, 8, 9)), Guard(budget=3))
    good = fit(bad, tmp_path / "good", until=6, quiet=True)
    for _ in range(2):  # and so it does again
        with pytest.raises(
            Diverged, match="3 steps in a row from step 7 .* last good step is 6, .* checkpoint 6"
        ) as end:
            fit(bad, tmp_path / "run", quiet=True)
        assert end.value.code == 3 and json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "diverged"
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoints.latest() == 6
    assert_same(checkpoints.restore(prepare(bad, tmp_path).target), good.state)
    wild = dataclasses.replace(OptimizerConfig(name="sgd", schedule="constant", clip=None), learning_rate=1e38)
    with pytest.raises(Diverged, match="the last good step is 0, whose weights are in checkpoint 0"):
        fit(dataclasses.replace(bad, optimizer=wild), tmp_path / "wild", quiet=True)


def test_once_the_data_that_led_there_are_passed_over(tmp_path):
    bad = Sums(bad=(6, 7, 8, 9))
    rolled = recipe(bad, Guard(budget=3, rollback=True))
    straight = fit(rolled, tmp_path / "rolled", quiet=True)
    # back to checkpoint 5 and on with batch 9, which is bad too
    assert "3 steps in a row from step 7" in (tmp_path / "rolled" / "log.txt").read_text()
    expected = fit(recipe(dataclasses.replace(bad, shift=(5, 4))), tmp_path / "shifted", quiet=True)
    assert int(straight.state.guard.offset) == 4
    assert_same(straight.state._replace(guard=None), expected.state._replace(guard=None))
    notes = [row["examples"]["batch"] for row in rows_of(tmp_path / "rolled") if "examples" in row]
    assert notes == [9] and straight.summary["skipped"] == 1
    for until in (9, None):  # the first stop is behind the rollback
        stopped = fit(rolled, tmp_path / "stopped", until=until, quiet=True)
    assert_same(stopped.state, straight.state)
    with pytest.raises(Diverged, match="from step 6 on .* checkpoint 5"):
        fit(recipe(Sums(bad=(*range(6, 30),)), rolled.train.guard), tmp_path / "hopeless", quiet=True)
    with pytest.raises(Diverged, match="from step 7 on .* checkpoint 6"):  # 12 steps, 4 ahead, need batch 15
        fit(recipe(dataclasses.replace(bad, last=14), rolled.train.guard), tmp_path / "short", quiet=True)


def test_a_rollback_to_a_growth_grows_again(tmp_path):
    grown = recipe(Sums(bad=(3, 4, 5)), Guard(budget=3, rollback=True), save_every=100)
    grown = dataclasses.replace(
        grown,
        model=dataclasses.replace(grown.model, depth=2),
        growth=Growth((1, 2), schedule="explicit", steps=(4, 8)),
    )
    rolled = fit(grown, tmp_path / "rolled", quiet=True)
    # the fourth step was not taken, and its checkpoint, the only one, lies before the growth
    assert "back to step 4, and on with the data 2 batches ahead" in (tmp_path / "rolled" / "log.txt").read_text()
    shifted = dataclasses.replace(grown, task=Sums(bad=(3,), shift=(4, 2)))
    expected = fit(shifted, tmp_path / "shifted", quiet=True)
    assert_same(rolled.state._replace(guard=None), expected.state._replace(guard=None))
    assert [int(x) for x in rolled.state.guard if x.dtype == np.int32] == [1, 0, 8, 2]  # 8 good since the growth


def test_members_of_a_sweep_skip_as_their_single_runs_do(tmp_path):
    once = recipe(Sums(bad=(4,), drawn=True))
    sweep = run_sweep(once, {"optimizer.learning_rate": [1e-2, 3e-3]}, seeds=(0,))
    single = fit(once, tmp_path, quiet=True)
    assert [int(member.state.guard.skipped) for member in sweep.members] == [1, 1]
    for a, b in zip(*map(jax.tree.leaves, (sweep.members[0].state.params, single.state.params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


TWO = """
from pathlib import Path
import jax
jax.distributed.initialize(sys.argv[2], num_processes=2, process_id=int(sys.argv[3]), initialization_timeout=60)
from lm.exits import main_guard
from lm.train import fit
from test_guard import Guard, Sums, recipe

folder = Path(sys.argv[1])
assert jax.device_count() == 2
state = fit(recipe(Sums(bad=(4,), only_process=1)), folder / "once", until=7, quiet=True).state
kernels = [x.addressable_data(0).tolist() for x in jax.tree.leaves(state.params)]
print(int(state.guard.skipped), int(state.guard.seen), hash(str(kernels)), flush=True)
spent = recipe(Sums(bad=(2, 3, 4), only_process=1), Guard(budget=2))
sys.argv[1:] = []
main_guard(lambda argv: fit(spent, folder / "spent", quiet=True))
"""


def test_two_processes_decide_alike_where_the_data_of_one_are_bad(tmp_path, address):
    again = {"PYTHONHASHSEED": "0", "JAX_NUM_CPU_DEVICES": "1"}
    children = [run_child(TWO, str(tmp_path), address, str(rank), **again) for rank in range(2)]
    try:
        said = [child.communicate(timeout=150)[0].splitlines()[-1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [3, 3]
    assert said[0].startswith("1 6 ") and said[0] == said[1]
    assert (
        f"step 5 was not taken (1 so far): batch 4, rows {BAD_ROW}, examples {400 + BAD_ROW}"
        in (tmp_path / "once" / "log.txt").read_text()
    )
    assert Checkpoints(tmp_path / "spent" / "checkpoints").latest() == 2
