"""Training: a recipe made ready, and the host loop that logs, saves, resumes and evaluates around the step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm.checkpoint import Checkpoints
from lm.config import Recipe
from lm.exits import Diverged, Preempted
from lm.flops import count_flops
from lm.guard import Exhausted, last_good, make_guard, moved_on
from lm.interrupt import Interrupt
from lm.job import Patience
from lm.losses import augmented, make_objective
from lm.memory import explained, trimmed
from lm.mesh import check_layout, make_mesh, offloaded, put_batch, shard_draw, state_shardings, under
from lm.models import build
from lm.optim import make_optimizer, schedule_of
from lm.processes import barrier, compare, facts_of, is_main_process
from lm.report.folder import RunFolder
from lm.report.journal import Journal
from lm.start import starting_weights
from lm.step import DATA, EVALUATE, MODEL, bad_rows, init_state, make_step, purpose, repeat, weights
from lm.strict import kinds_of, to_json
from lm.transforms import Average, Stage, ema, grow, make_transform, settle, stages_from, stages_of, wrap_all
from lm.transforms.statistics import calibrate, has_statistics
from lm.types import Batch, Evaluation, Metrics, Net, Objective, Params, Source, TrainState
from lm.watchdog import Watchdog

CALIBRATION = 16  # batches that running statistics are estimated on anew
MEET = 300  # seconds for all processes to begin a run


class Result(NamedTuple):
    """What a finished (or stopped) run leaves in memory; `evaluation` is None where it stopped early.

    `net` is the plain model, without the recipe's transforms, and `params` are its weights for use: settled, and
    averaged where the recipe keeps an average.
    """

    state: TrainState
    net: Net
    params: Params
    source: Source
    evaluation: Evaluation | None
    summary: dict[str, Any]
    step: int


class Run(NamedTuple):
    """A recipe, or one stage of it, made ready: its net and data, the compiled stretch of steps, and how to begin."""

    net: Net  # the plain model
    settle: Callable[[Params], Params]  # from trained to plain parameters
    source: Source
    init: Callable[..., TrainState]  # from the plain model's weights where they are given, else from a draw
    grow: Callable[[TrainState], TrainState]  # from the state of the stage before
    target: TrainState
    stretch: Callable[[TrainState, Batch | None, int], tuple[TrainState, Metrics]]
    batches: Callable[[int, int], Batch | None]
    culprits: Callable[[TrainState, int], list[int]]  # the rows that made a step bad, where it can be told
    batch: Batch  # shapes of one batch

    @property
    def tokens(self) -> int:
        """Positions in a batch."""
        return int(np.prod(self.batch.positions.shape[:2]))


def build_net(recipe: Recipe, initial: Params | None = None) -> tuple[Net, Net, Callable[[Params], Params]]:
    """Return the recipe's plain model, the net that is trained, and what settles its parameters for the plain one.

    With `initial` the plain model begins with these weights, whatever the key.
    """
    plain = build(recipe.model)
    if initial is not None:
        plain = plain._replace(init=lambda key: initial)
    transforms = [make_transform(config, recipe.model) for config in recipe.transforms]

    def settled(params: Params) -> Params:
        return settle(params, transforms)

    return plain, wrap_all(plain, transforms), jax.jit(settled) if transforms else settled


def weights_for_use(recipe: Recipe, source: Source) -> Callable[[Params], Params]:
    """Return what turns trained (or averaged) parameters into those of the plain model.

    Running statistics were collected under the weights of the steps; where other weights are used they are
    estimated anew, on training batches that all seeds share, so that a member of a sweep is settled as its single run.
    """
    plain, _, settled = build_net(recipe)
    key = jax.random.key(0)
    augment = source.augment or (lambda _, batch: batch)

    def batch(step: int) -> Batch:
        if source.draw is None:
            assert source.at is not None
            drawn = source.at(step)
        else:
            drawn = jax.jit(source.draw)(purpose(key, DATA), jnp.int32(step))
        return augment(jax.random.fold_in(purpose(key, MODEL), step), drawn)

    def use(params: Params) -> Params:
        params = settled(params)
        if has_statistics(params) and (recipe.transforms or recipe.train.ema is not None):
            params = calibrate(plain, params, map(batch, range(CALIBRATION)), purpose(key, EVALUATE))
        return params

    return use


def parts_of(recipe: Recipe) -> tuple[Objective, optax.GradientTransformation, Average | None]:
    """Return the objective, the optimizer and the average that a recipe names."""
    average = None if recipe.train.ema is None else ema(recipe.train.ema)
    objective = make_objective(recipe.objective, recipe.model)
    return objective, make_optimizer(recipe.optimizer, schedule_of(recipe)), average


def prepare(
    recipe: Recipe, folder: Path, source: Source | None = None, devices: Sequence[jax.Device] | None = None
) -> Run:
    """Build everything that training at one depth needs; `folder` is where a task may keep the data it builds.

    `source` is the task's, where it is at hand already. `devices` are those that the process sees, or of a topology
    that is compiled for and is not there.
    """
    mesh = make_mesh(recipe.mesh, devices)
    check_layout(recipe, mesh)
    plain, net, _ = under(mesh, build_net)(recipe)
    source = recipe.task.source(recipe, folder) if source is None else source
    objective, optimizer, average = parts_of(recipe)
    draw = None if source.draw is None else shard_draw(source.draw, mesh)
    objective = augmented(objective, source.augment)
    guard = make_guard(recipe.train.guard, recipe.train.steps_per_dispatch)
    step = make_step(net, objective, optimizer, draw, recipe.train.accumulate, average, guard)
    step = offloaded(step) if recipe.optimizer.offload else step

    def fresh(initial: Params | None = None) -> TrainState:
        begun = build_net(recipe, initial)[1]
        return init_state(begun, optimizer, jax.random.key(recipe.train.seed), average, guard)

    abstract = jax.eval_shape(under(mesh, fresh))
    shardings = state_shardings(abstract, mesh, offload=recipe.optimizer.offload)
    target = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)
    stretch = jax.jit(under(mesh, repeat(step)), donate_argnums=0, out_shardings=(shardings, None))
    longest = recipe.train.steps_per_dispatch

    def batches(start: int, count: int) -> Batch | None:
        if source.at is None:
            return None
        # The last batch stands in for the steps that this stretch does not take: one shape, one program.
        rows = [source.at(start + min(i, count - 1)) for i in range(longest)]
        return put_batch(jax.tree.map(lambda *x: np.stack(x), *rows), mesh, leading=1)

    def taller(state: TrainState) -> TrainState:
        assert recipe.growth is not None
        return grow(state, fresh(), recipe.growth)

    if source.draw is not None:
        one = jax.eval_shape(source.draw, abstract.key, abstract.step)
    else:
        assert source.at is not None
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), source.at(0))
    begin, deepen = (jax.jit(under(mesh, function), out_shardings=shardings) for function in (fresh, taller))
    trial = under(mesh, make_step(net, objective, optimizer, None, recipe.train.accumulate, average, guard))
    search = bad_rows(trial, draw, batches, recipe.train.batch_size)
    return Run(plain, weights_for_use(recipe, source), source, begin, deepen, target, stretch, batches, search, one)


def stretches(start: int, last: int, recipe: Recipe) -> Iterator[tuple[int, int]]:
    """Yield (step, count) from `start` to `last`, cut wherever the loop must log, save or evaluate."""
    train = recipe.train
    marks = [m for m in (train.log_every, train.save_every, train.evaluate_every) if m]
    while start < last:
        stop = min(last, start + train.steps_per_dispatch, *((start // m + 1) * m for m in marks))
        yield start, stop - start
        start = stop


def is_examined(step: int, recipe: Recipe) -> bool:
    """Say whether the model is evaluated in passing at this step; at its end it is in any case."""
    every = recipe.train.evaluate_every
    return every is not None and step % every == 0 and 0 < step < recipe.train.steps


def fit(
    recipe: Recipe,
    workdir: str | Path,
    *,
    until: int | None = None,
    resume: str = "auto",
    allow_change: tuple[str, ...] = (),
    quiet: bool = False,
    initial: Params | None = None,
    patience: Patience | None = None,
) -> Result:
    """Train a recipe in a run folder, from its newest valid checkpoint where there is one, and evaluate it.

    `until` stops after that step and saves, as a preemption would; schedules still span `train.steps`.
    `allow_change` names fields (dotted) that may differ from the recipe found in the folder. `initial` are weights
    of the plain model to begin with, in place of those that `recipe.weights` names. `patience` is the watchdog's.
    Raises Preempted (after saving) on SIGTERM or Ctrl-C, and Diverged where the guard's budget of bad steps is
    spent (the last good step is saved), or where there is no guard and the loss is no longer finite. Several
    processes give the same arguments; ConfigError in all of them where these, code or checkpoints differ.
    """
    last = recipe.train.steps if until is None else min(until, recipe.train.steps)
    compare({**facts_of(to_json(recipe), Path(workdir)), "until": until}, MEET)
    folder = RunFolder(workdir, resume) if is_main_process() else contextlib.nullcontext()
    with trimmed(), Watchdog(patience or Patience()) as watchdog, folder as mine, Interrupt(watchdog) as interrupt:
        watchdog.folder = mine
        if mine is not None:
            mine.check_recipe(to_json(recipe), allow_change, kinds_of(recipe))
        log = print if mine is None else mine.log
        checkpoints = Checkpoints(Path(workdir) / "checkpoints", keep=recipe.train.keep, log=log)
        with contextlib.closing(checkpoints):
            found = checkpoints.latest()
            checkpoints.ready()
            journal = Journal(mine, recipe, found or 0, quiet)
            with contextlib.closing(journal):
                with explained(recipe):
                    run, state = climb(recipe, Path(workdir), found, initial, last, checkpoints, journal, interrupt)
                evaluation = None
                if last == recipe.train.steps:
                    evaluation = evaluate_run(run, recipe, state, interrupt)
                    journal.evaluation(last, evaluation)
                summary = journal.finish(last, evaluation, stage_flops(recipe, run))
            barrier("end", MEET)
        return Result(state, run.net, run.settle(weights(state)), run.source, evaluation, summary, last)


def climb(
    recipe: Recipe,
    folder: Path,
    found: int | None,
    initial: Params | None,
    last: int,
    checkpoints: Checkpoints,
    journal: Journal,
    interrupt: Interrupt,
    offset: int = 0,
) -> tuple[Run, TrainState]:
    """Train stage by stage, from the checkpoint `found` or from its beginning, up to step `last`.

    A checkpoint at a growth holds the state before it: going on from there grows it again, in the same way. With an
    `offset` the data run that far ahead of the step from here on.
    """
    stages = stages_from(recipe, found or 0)
    with interrupt.at_once():
        run = prepare(stages[0].recipe, folder)
        if found is None:
            state = run.init(starting_weights(stages[0].recipe, initial))
        else:
            state = checkpoints.restore(run.target, found)
        if offset:
            state = moved_on(state, offset)
    for stage in stages:
        if stage is not stages[0]:
            run = prepare(stage.recipe, folder, run.source)
            state = run.grow(state)
        journal.enter(stage, run, state)
        if stage is stages[0] and found is not None and is_examined(found, recipe):  # a kill may have cut it short
            journal.evaluation(found, evaluate_run(run, recipe, state, interrupt))
        back = None
        try:
            state = train(run, recipe, state, min(last, stage.stop), checkpoints, journal, interrupt)
        except Exhausted as end:
            back = go_back(end.state, run.source, recipe, checkpoints, journal)
        if back is not None:  # and the state that came with the exception is gone
            return climb(recipe, folder, back[0], initial, last, checkpoints, journal, interrupt, back[1])
        if last <= stage.stop:
            break
    return run, state


def go_back(
    state: TrainState, source: Source, recipe: Recipe, checkpoints: Checkpoints, journal: Journal
) -> tuple[int | None, int]:
    """Return the checkpoint that a run out of its guard's budget goes on from, and the offset of its data there.

    Raises Diverged where the guard rolls back no more, or where the data end too soon for it; the last good step is
    then the newest checkpoint, or one that was saved since holds its weights.
    """
    assert state.guard is not None and recipe.train.guard is not None
    guard, good, newest = recipe.train.guard, last_good(state), checkpoints.latest()
    first = int(good.step)
    spent = f"{guard.budget} steps in a row from step {first + 1} on had no finite loss or gradient, or a spike"
    back = newest or 0
    offset = first + guard.budget - back
    if guard.rollback and not int(state.guard.offset) and has_batch(source, recipe.train.steps - 1 + offset):
        journal.rewind(back, f"{spent}; back to step {back}, and on with the data {offset} batches ahead")
        return newest, offset
    if newest is None or newest < first:
        checkpoints.save(first, good, to_json(recipe))
        checkpoints.wait()
        newest = first
    raise Diverged(f"{spent}; the last good step is {first}, whose weights are in checkpoint {newest}")


def has_batch(source: Source, index: int) -> bool:
    """Say whether a source has this batch: a mixture that follows the steps ends with the last one."""
    try:
        return source.at is None or len(source.at(index).inputs) > 0
    except IndexError:
        return False


def stage_flops(recipe: Recipe, run: Run) -> list[tuple[Stage, int]]:
    """Return each stage of a recipe with the floating-point operations of one of its steps."""
    counted = []
    for stage in stages_of(recipe):
        net = build_net(stage.recipe)[1]
        objective, optimizer, average = parts_of(stage.recipe)
        state = jax.eval_shape(lambda n=net, o=optimizer, a=average: init_state(n, o, jax.random.key(0), a))
        objective = augmented(objective, run.source.augment)
        step = make_step(net, objective, optimizer, accumulate=recipe.train.accumulate, average=average)
        counted.append((stage, count_flops(step, state, run.batch)))
    return counted


def train(
    run: Run,
    recipe: Recipe,
    state: TrainState,
    last: int,
    checkpoints: Checkpoints,
    journal: Journal,
    interrupt: Interrupt,
) -> TrainState:
    """Take the steps up to `last`; metrics are read one stretch late, so that dispatch never waits for them."""
    text, step = to_json(recipe), int(state.step)
    ahead = 0 if state.guard is None else int(state.guard.offset)
    watchdog = interrupt.watchdog

    def save() -> None:
        with watchdog.slow("saving"):
            journal.flush(state)  # raises before a broken state could be saved
            checkpoints.check()
            checkpoints.save(step, state, text)

    watchdog.compiling()
    for start, count in stretches(step, last, recipe):
        step = start + count
        state, metrics = run.stretch(state, run.batches(start + ahead, count), count)
        journal.record(start, step, metrics, state)
        watchdog.stepped()
        checkpoints.open()
        try:
            if step % recipe.train.save_every == 0 or step == last:
                save()
            interrupt.check()
            if is_examined(step, recipe):
                journal.evaluation(step, evaluate_run(run, recipe, state, interrupt))
        except Preempted:
            save()
            checkpoints.wait()
            raise Preempted(
                f"stopped by a signal and saved at step {step}; the same command goes on from there"
            ) from None
    checkpoints.wait()
    return state


def evaluate_run(run: Run, recipe: Recipe, state: TrainState, interrupt: Interrupt) -> Evaluation:
    """Examine the plain model with the weights for use; Preempted where a signal asks to stop meanwhile."""
    key = purpose(jax.random.key(recipe.train.seed), EVALUATE)
    with interrupt.watchdog.slow("evaluating"), interrupt.at_once():
        return run.source.evaluate(run.net, run.settle(weights(state)), key)
