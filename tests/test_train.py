"""The step and its drivers: accumulation, resume, averages, populations."""

import dataclasses
import json
import re
import signal
import subprocess
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import monitoring  # jax.monitoring removes all listeners or none
from test_checkpoint import run_child
from trees import assert_close, assert_same

from lm.config import MajorityKernels, OptimizerConfig, Recipe, TrainConfig, TransformerConfig
from lm.data import Corpus, Document, build_corpus
from lm.exits import Diverged, Preempted, UserError
from lm.losses import next_token
from lm.memory import explained, needed, shortage, trimmed
from lm.models import build
from lm.optim import make_optimizer, schedule_of
from lm.report.journal import Journal
from lm.step import init_state, make_step, repeat
from lm.strict import ConfigError
from lm.sweep import grid_points, run_sweep
from lm.train import fit, stretches
from lm.transforms import ema
from lm.types import Source
from tasks.formal.flip_flop.language import FlipFlop

TASK = FlipFlop(length=16)
RECIPE = Recipe(
    task=TASK,
    model=TransformerConfig(vocabulary=5, depth=1, width=8, heads=2),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2, weight_decay=0.1),
    train=TrainConfig(steps=10, batch_size=8, steps_per_dispatch=4, log_every=5, save_every=5),
    name="tiny",
)
NET = build(RECIPE.model)
OPTIMIZER = make_optimizer(RECIPE.optimizer, schedule_of(RECIPE))


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_the_large_batch(parts):
    # Flip-flop examples ask for different numbers of positions, so unweighted micro-batches would differ.
    batch = TASK.draw(jax.random.key(1), 8)
    state = init_state(NET, OPTIMIZER, jax.random.key(0))
    whole, metrics = jax.jit(make_step(NET, next_token, OPTIMIZER))(state, batch)
    split, merged = jax.jit(make_step(NET, next_token, OPTIMIZER, accumulate=parts))(state, batch)
    # Adam divides by the root of the squared gradient, which magnifies rounding of near-zero gradients.
    assert_close(split.params, whole.params, 2e-5)
    assert_close(merged, metrics, 1e-5)


def test_step_keeps_the_average_of_what_it_updates():
    average = ema(0.5)
    state = init_state(NET, OPTIMIZER, jax.random.key(0), average)
    step = jax.jit(make_step(NET, next_token, OPTIMIZER, average=average))
    after, _ = step(state, TASK.draw(jax.random.key(1), 8))
    assert_close(after.ema, average.update(state.params, after.params, jnp.int32(0)), 1e-7)


def test_repeat_equals_single_steps_bit_for_bit_and_compiles_once():
    draw = TASK.source(RECIPE, None).draw
    run = jax.jit(repeat(make_step(NET, next_token, OPTIMIZER, draw)))
    state = init_state(NET, OPTIMIZER, jax.random.key(0))
    once, total = run(state, None, 5)
    bit, parts = state, []
    for count in (1, 3, 1):
        bit, metrics = run(bit, None, count)
        parts.append(metrics)
    assert_same(once, bit)
    np.testing.assert_allclose(sum(p["loss"].sum for p in parts), total["loss"].sum, rtol=1e-6)
    assert run._cache_size() == 1


def test_golden_first_step():
    draw = TASK.source(RECIPE, None).draw
    state = init_state(NET, OPTIMIZER, jax.random.key(0))
    after, metrics = jax.jit(make_step(NET, next_token, OPTIMIZER, draw))(state, None)
    norm = lambda tree: float(jnp.sqrt(sum(jnp.sum(x * x) for x in jax.tree.leaves(tree))))  # noqa: E731
    moved = norm(jax.tree.map(jnp.subtract, after.params, state.params))
    np.testing.assert_allclose(
        [float(metrics["loss"].value), norm(state.params), moved],
        GOLDEN,
        rtol=1e-4,
        err_msg="the first step of a tiny recurrent net changed; update the figures only when a change of the "
        "initialisation, the data, the loss or the optimizer is meant, and say so in the commit",
    )


GOLDEN = [1.7098356, 4.9264607, 0.1436945]


@dataclasses.dataclass(frozen=True)
class Stored(FlipFlop):
    """The same strings read on the host by position, as a corpus is."""

    def source(self, recipe, folder):
        drawn = super().source(recipe, folder)
        draw = jax.jit(drawn.draw)
        return Source(
            draw=None,
            at=lambda step: jax.tree.map(np.asarray, draw(jax.random.key(7), step)),
            evaluate=drawn.evaluate,
            facts={},
        )


@pytest.mark.parametrize("task", [TASK, Stored(length=16)], ids=["drawn", "read"])
def test_stopping_anywhere_and_going_on_equals_never_stopping(task, tmp_path):
    recipe = dataclasses.replace(RECIPE, task=task, train=dataclasses.replace(RECIPE.train, ema=0.9))
    straight = fit(recipe, tmp_path / "straight", quiet=True)
    for until in (3, 7, None):
        stopped = fit(recipe, tmp_path / "stopped", until=until, quiet=True)
    assert_same(straight.state, stopped.state)
    assert straight.evaluation == stopped.evaluation
    again = fit(recipe, tmp_path / "stopped", quiet=True)
    for name in ("loss", "tokens_per_second", "metrics", "slices"):
        assert again.summary[name] == stopped.summary[name], name
    rows = [json.loads(line) for line in (tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [3, 5, 7, 10]


def small_corpus(folder):
    documents = [Document([number % 5] * 13, [1.0] * 13) for number in range(23)]
    build_corpus(folder, "small", {"train": lambda: documents}, 16, {})
    return Corpus(folder, "train", RECIPE.train.batch_size, seed=0)


@pytest.mark.parametrize("kind", ["drawn", "corpus"])
def test_every_step_has_its_examples_wherever_a_run_was_stopped(kind, tmp_path):
    corpus = small_corpus(tmp_path / "small") if kind == "corpus" else None
    assert corpus is None or corpus.size < 3 * RECIPE.train.batch_size, "an epoch ends within the run"
    taken = {}

    @dataclasses.dataclass(frozen=True)
    class Watched(FlipFlop):
        def source(self, recipe, folder):
            source = super().source(recipe, folder)

            def draw(key, step):
                batch = source.draw(key, step)
                jax.debug.callback(lambda step, rows: taken.update({int(step): rows.tolist()}), step, batch.inputs)
                return batch

            def at(step):
                taken[step] = corpus.ids(step)
                return corpus.at(step)

            return source._replace(draw=draw) if corpus is None else source._replace(draw=None, at=at)

    def steps(folder, until):
        fit(dataclasses.replace(RECIPE, task=Watched(length=16)), tmp_path / folder, until=until, quiet=True)
        jax.effects_barrier()
        return dict(taken)

    straight = steps("straight", 9)
    assert sorted(straight) == [*range(9)]
    start = 0
    for until in (3, 9) if corpus is None else (1, 4, 6, 9):
        taken.clear()
        now = steps("stopped", until)
        first = {} if corpus is None or start == 0 else {0: straight[0]}  # the shapes are those of batch 0
        assert now == first | {step: straight[step] for step in range(start, until)}
        start = until


def test_a_folder_refuses_another_recipe_and_names_the_field(tmp_path):
    fit(RECIPE, tmp_path, until=2, quiet=True)
    wider = dataclasses.replace(RECIPE, model=dataclasses.replace(RECIPE.model, width=16))
    with pytest.raises(UserError, match="model.width was 8, now 16"):
        fit(wider, tmp_path, quiet=True)
    seldom = dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, log_every=2))
    assert fit(seldom, tmp_path, until=4, quiet=True).step == 4
    later = dataclasses.replace(seldom, optimizer=dataclasses.replace(RECIPE.optimizer, learning_rate=1e-3))
    for allowed in ((), ("optimizer.learn",), ("model", "train")):
        with pytest.raises(UserError, match=r"optimizer.learning_rate was 0.01, now 0.001"):
            fit(later, tmp_path, allow_change=allowed, quiet=True)
    for until, allowed in ((5, ("optimizer.learning_rate",)), (6, ())):  # allowed once, it is the run's recipe
        fit(later, tmp_path, until=until, allow_change=allowed, quiet=True)
    stamp = json.loads((tmp_path / "stamp.json").read_text())
    change = {"field": "optimizer.learning_rate", "was": 0.01, "now": 0.001}
    assert [start["changed"] for start in (*stamp["earlier"], stamp)] == [[], [], [change], []]


def test_a_recipe_that_makes_no_run_leaves_the_folder_free(tmp_path):
    heads = dataclasses.replace(RECIPE, model=dataclasses.replace(RECIPE.model, heads=3))
    with pytest.raises(ConfigError, match="multiple of model.heads 3"):
        fit(heads, tmp_path, quiet=True)
    assert fit(RECIPE, tmp_path, until=1, quiet=True).step == 1


def test_without_a_guard_divergence_ends_the_run(tmp_path):
    wild = dataclasses.replace(
        RECIPE,
        optimizer=OptimizerConfig(name="sgd", learning_rate=1e38, schedule="constant", clip=None),
        train=dataclasses.replace(RECIPE.train, guard=None),
    )
    with pytest.raises(Diverged, match="the loss is"):
        fit(wild, tmp_path, quiet=True)


TIGHT = """
import resource, sys
from pathlib import Path
import jax
from lm.exits import main_guard
from lm.train import fit, prepare
from test_train import RECIPE, dataclasses

train = dataclasses.replace(RECIPE.train, batch_size=2**23, steps_per_dispatch=1)
wide = dataclasses.replace(RECIPE, train=train)
def main(argv):
    jax.block_until_ready(prepare(RECIPE, Path(argv[0])).init(None))  # threads and code before the limit
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)
    fit(wide, argv[0], until=1, quiet=True)
main_guard(main)
"""


def test_too_little_memory_is_one_line_with_the_numbers_and_the_knobs(tmp_path):
    child = run_child(TIGHT, str(tmp_path), stderr=subprocess.PIPE)
    _, said = child.communicate(timeout=120)
    assert child.returncode == UserError.code and said.count("\n") == 1, said
    numbers = r"error: out of memory: [\d.]+ GiB more asked for, a device has [\d.]+ GiB in all; "
    ways = "try, in this order: --train.accumulate 2, then --model.remat full, then more devices .*mesh.fsdp, now 1"
    assert re.match(numbers + ways, said), said


def test_the_numbers_of_the_compiler_are_read_too():
    said = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory. Used 21.95G of 512.00M hbm."
    assert shortage(said, 7.0).endswith("needs 21.95 GiB of the 0.50 GiB of a device")
    temporaries = "the total memory required for HLO temporaries (2.00T) exceeds available HBM (15.75G)."
    assert needed(f"E1000: Ran out of memory on HBM, {temporaries}") == (2 * 2**40, 15.75 * 2**30)
    assert needed("INTERNAL: something else") is None
    assert shortage("RESOURCE_EXHAUSTED: too many", 7.0).endswith("more asked for, a device has 7.00 GiB in all")
    with pytest.raises(jax.errors.JaxRuntimeError), explained(RECIPE):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_a_signal_saves_and_the_run_goes_on(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Raising(Stored):
        def source(self, recipe, folder):
            source = super().source(recipe, folder)

            def at(step):
                if step == 5:
                    signal.raise_signal(signal.SIGTERM)
                return source.at(step)

            return source._replace(at=at)

    with pytest.raises(Preempted, match="saved at step"):
        fit(dataclasses.replace(RECIPE, task=Raising(length=16)), tmp_path / "a", quiet=True)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    recipe = dataclasses.replace(RECIPE, task=Stored(length=16))
    resumed = fit(recipe, tmp_path / "a", allow_change=("task",), quiet=True)
    straight = fit(recipe, tmp_path / "b", quiet=True)
    assert_same(resumed.state.params, straight.state.params)


def test_stretches_cut_at_every_mark():
    train = TrainConfig(steps=20, steps_per_dispatch=8, log_every=5, save_every=6, evaluate_every=9)
    found = list(stretches(3, 20, dataclasses.replace(RECIPE, train=train)))
    assert found == [(3, 2), (5, 1), (6, 3), (9, 1), (10, 2), (12, 3), (15, 3), (18, 2)]


def test_sweep_members_equal_single_runs(tmp_path):
    grid = {"optimizer.learning_rate": [1e-2, 3e-3], "model.width": [8, 4]}
    result = run_sweep(RECIPE, grid, seeds=(0, 3))
    assert [(m.values, m.seed) for m in result.members] == [(p, s) for p in grid_points(grid) for s in (0, 3)]
    for index in (1, 6):  # a traced value and seed of each program
        member = result.members[index]
        recipe = dataclasses.replace(
            RECIPE,
            model=dataclasses.replace(RECIPE.model, width=member.values["model.width"]),
            optimizer=dataclasses.replace(RECIPE.optimizer, learning_rate=member.values["optimizer.learning_rate"]),
            train=dataclasses.replace(RECIPE.train, seed=member.seed),
        )
        single = fit(recipe, tmp_path / str(index), quiet=True)
        assert_close(member.state.params, single.state.params, 1e-6)
        assert member.evaluation.metrics["glitch_rate"].count == single.evaluation.metrics["glitch_rate"].count


def test_training_begins_with_the_weights_given_and_refuses_others(tmp_path):
    given = jax.tree.map(lambda x: x + 1, NET.init(jax.random.key(9)))
    slow = dataclasses.replace(RECIPE.optimizer, learning_rate=1e-12, weight_decay=0.0)
    recipe = dataclasses.replace(RECIPE, optimizer=slow, train=dataclasses.replace(RECIPE.train, steps=1))
    assert_close(fit(recipe, tmp_path / "given", quiet=True, initial=given).params, given, 1e-6)
    copies = dataclasses.replace(recipe, transforms=(MajorityKernels(factor=2),))
    assert_close(fit(copies, tmp_path / "copies", quiet=True, initial=given).params, given, 1e-6)
    other = build(dataclasses.replace(RECIPE.model, depth=2)).init(jax.random.key(0))
    with pytest.raises(ConfigError, match=r"weights: blocks/.* has shape \(2, .*the model's has \(1, "):
        fit(recipe, tmp_path / "other", quiet=True, initial=other)
    with pytest.raises(ConfigError, match="a sweep draws its weights"):
        run_sweep(dataclasses.replace(recipe, weights="somewhere"), {}, [0])


def test_a_run_compiles_nothing_after_its_first_evaluation(tmp_path, monkeypatch):
    compiled, counts, plain = [], [], Journal.evaluation

    def listen(event, seconds, **facts):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(facts["fun_name"])

    def evaluation(self, step, found):
        plain(self, step, found)
        counts.append(len(compiled))

    monkeypatch.setattr(Journal, "evaluation", evaluation)
    train = dataclasses.replace(RECIPE.train, steps=8, evaluate_every=2, save_every=3, log_every=1)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        fit(dataclasses.replace(RECIPE, train=train), tmp_path, quiet=True)
    finally:
        monitoring.unregister_event_duration_listener(listen)
    assert len(counts) == 4 and counts[0] > 0
    assert compiled[counts[0] :] == []


def test_what_a_compilation_leaves_is_given_back_before_the_program_runs(monkeypatch):
    calls = []
    library = SimpleNamespace(malloc_trim=calls.append)
    monkeypatch.setattr("lm.memory.ctypes.CDLL", lambda _: library)
    monkeypatch.setattr("lm.memory.LONG", 0)
    with trimmed():
        jax.jit(lambda x: x + 1)(jnp.zeros(3))
    assert set(calls) == {0}
    kept = len(calls)
    jax.jit(lambda x: x + 2)(jnp.zeros(3))
    assert len(calls) == kept
    with trimmed():
        monkeypatch.setattr("lm.memory.LONG", 60)
        jax.jit(lambda x: x + 3)(jnp.zeros(3))
    assert len(calls) == kept
