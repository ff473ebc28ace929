"""What saving costs the loop that trains: the time in which it stands still, and that of slower steps meanwhile.

The state is that of 124M parameters with both moments of AdamW, 1.5 GB; the loop is the one of every run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from tasks.task import Claim, Experiment

EVERY, SAVES = 12, 4  # steps between two saves; far more than a save goes on for


class Clock:
    """Stands between a loop and its journal and checkpoints, and notes when it steps and when it saves.

    It waits for each step, so that what is left of one is not taken for a part of a save.
    """

    def __init__(self, journal: Any, checkpoints: Any):
        self._journal, self._checkpoints, self._since = journal, checkpoints, time.perf_counter()
        self.steps: list[float] = []
        self.blocked: list[float] = []
        self.opening = 0.0
        self.flush, self.check, self.wait = journal.flush, checkpoints.check, checkpoints.wait

    def record(self, start: int, step: int, metrics: Any, state: Any) -> None:
        import jax

        jax.block_until_ready((metrics, state))
        self.steps.append(self._passed())
        self._journal.record(start, step, metrics, state)
        self._passed()

    def open(self) -> None:
        self._checkpoints.open()
        self.opening += self._passed()

    def save(self, *words: Any) -> None:
        self._checkpoints.save(*words)
        self.blocked.append(self._passed())

    def _passed(self) -> float:
        before, self._since = self._since, time.perf_counter()
        return self._since - before


def saving(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train with saves, save once more and wait for it, and compare what comes back with what was saved."""
    from lm.checkpoint import Checkpoints
    from lm.interrupt import Interrupt
    from lm.report.folder import RunFolder
    from lm.report.journal import Journal
    from lm.strict import to_json
    from lm.train import prepare, train
    from lm.transforms import stages_of

    recipe = recipe_of_124m()
    last = recipe.train.steps
    checkpoints = Checkpoints(workdir / "checkpoints", keep=1)
    with RunFolder(workdir / "run") as folder, Interrupt() as interrupt, contextlib.closing(checkpoints):
        with contextlib.closing(Journal(folder, recipe, 0, quiet=True)) as journal:
            run = prepare(recipe, workdir)
            state = run.init()
            journal.enter(stages_of(recipe)[0], run, state)
            clock: Any = Clock(journal, checkpoints)
            state = train(run, recipe, state, last, clock, clock, interrupt)
        begun = time.perf_counter()
        checkpoints.save(last + 1, state, to_json(recipe))
        checkpoints.wait()
        waited = time.perf_counter() - begun
        written = sum(path.stat().st_size for path in (checkpoints.directory / str(last + 1)).rglob("*"))
        changed = differing(checkpoints.restore(run.target), state)
    return {**costs(clock), "waited": waited, "differing": changed, "gigabytes": written / 1e9}


def recipe_of_124m() -> Any:
    """Return a recipe with much to save and little to compute: 16 tokens a step."""
    from dataclasses import replace

    from lm.config import TransformerConfig
    from tasks.registry import RECIPES

    small = RECIPES["flip_flop_attention_cpu"]()
    return replace(
        small,
        task=replace(small.task, length=16),
        model=TransformerConfig(vocabulary=50304, depth=12, width=768, heads=12),
        train=replace(small.train, batch_size=1, steps_per_dispatch=1, save_every=EVERY, steps=EVERY * SAVES),
    )


def costs(clock: Clock) -> dict[str, float]:
    """Return what a save costs: seconds of standing still, of slower steps, and their share at the default cadence."""
    from lm.config import TrainConfig

    step = median(clock.steps[2:])  # the first compiles, the second waits for the checkpoints to open
    # No step comes after the last save.
    slower = median(sum(clock.steps[i : i + EVERY]) - EVERY * step for i in range(EVERY, EVERY * SAVES, EVERY))
    blocked, between = median(clock.blocked), TrainConfig.save_every * step
    return {
        "blocked": blocked,
        "blocked_longest": max(clock.blocked),
        "blocked_share": blocked / between,
        "share": (blocked + slower) / between,
        "slower": slower,
        "step": step,
        "opening": clock.opening,
    }


def differing(a: Any, b: Any) -> int:
    """Return how many leaves of two states are not the same bits."""
    import jax
    import numpy as np

    def bits(leaf: Any) -> Any:
        return jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    return sum(
        np.asarray(bits(x)).tobytes() != np.asarray(bits(y)).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


SAVE = Experiment(
    name="speed_save",
    paper="Speed: saving",
    claims=(
        Claim("", "Seconds that the loop stands still in a save of 1.5 GB", "blocked", at_most=0.05),
        Claim("", "The same as a share of the time between two saves by default", "blocked_share", at_most=0.01),
        Claim("", "Standing still and slower steps during the writing, as that share", "share", at_most=0.01),
        Claim("", "Leaves of the restored state that are not the same bits", "differing", at_most=0.0, rule="worst"),
    ),
    run=saving,
)
