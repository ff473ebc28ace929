"""What a run says while it runs: progress lines, metrics, samples, the summary and the report."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lm.config import Recipe
from lm.exits import Diverged, Unusable
from lm.guard import Exhausted, skipped_steps
from lm.optim import schedule_of
from lm.report.folder import RunFolder
from lm.report.html import write_report
from lm.report.progress import Progress
from lm.report.writer import METRICS, Writer, read_rows
from lm.strict import to_json
from lm.transforms.stacking import Stage
from lm.types import Evaluation, Mean, Metrics, TrainState


class Journal:
    """Collects the metrics of every stretch and speaks at each log step, one stretch late.

    Every process keeps a journal, since all must see a divergence alike; only the one with a folder writes.
    """

    def __init__(self, folder: RunFolder | None, recipe: Recipe, start: int, quiet: bool):
        self.folder, self.recipe, self.quiet = folder, recipe, quiet
        self.schedule = jax.jit(schedule_of(recipe))
        self.begun, self.start = time.monotonic(), start
        self.table: list[tuple[str, list[int], int]] = []
        self.tokens, self.unit = 0, "tokens"
        self.pending: tuple[int, int, Metrics] | None = None
        self.skipped = self.in_a_row = 0
        self.sums: dict[str, Mean] = {}
        self.loss = math.nan
        self.writer = None
        if folder is not None:
            self.writer = Writer(folder.path("."))
            try:
                self.writer.truncate(start)
            except Unusable:
                self.writer.close()
                raise

    def enter(self, stage: Stage, run: Any, state: TrainState) -> None:
        """Begin or go on with a stage of a run (lm.train.Run)."""
        first, self.table = not self.table, parameter_table(state.params)
        self.run = run
        if state.guard is not None:
            self.skipped, self.in_a_row = int(state.guard.skipped), int(state.guard.in_a_row)
        size = f"{sum(count for *_, count in self.table):,} parameters"
        if not first:
            self.say(f"step {stage.start}: grown to depth {stage.recipe.model.depth}, {size}")
            return
        self.tokens = run.tokens
        self.unit = "examples" if run.batch.positions.shape[1] == 1 else "tokens"
        self.progress = Progress(self.recipe.train.steps, run.tokens, self.start, unit=self.unit)
        if self.folder is not None:
            self.folder.write_recipe(to_json(self.recipe))  # not before the recipe has made a run
            self.folder.stamp(run.source.facts)
            self.folder.status("running", step=self.start)
            self.say(
                f"{self.recipe.name or type(self.recipe.task).__name__}: {size}, "
                f"{run.tokens:,} {self.unit} a step, {jax.device_count()} {jax.default_backend()} device(s), "
                f"{'from the start' if self.start == 0 else f'resumed at step {self.start}'}, "
                f"in {self.folder.path('.')}"
            )

    def say(self, line: str) -> None:
        """Print a line and keep it in log.txt."""
        if self.folder is not None:
            self.folder.log(line)
            if not self.quiet:
                print(line, file=sys.stderr, flush=True)

    def record(self, start: int, step: int, metrics: Metrics, state: TrainState) -> None:
        """Take the metrics of the stretch from `start` to `step`, and the state there; reads the stretch before it."""
        self.flush(state, late=True)
        self.pending = (start, step, metrics)

    def flush(self, state: TrainState, late: bool = False) -> None:
        """Read what is pending; a row is written at each log step.

        Raises Exhausted where the guard's budget is spent, and Diverged where a loss is not finite without a guard.
        """
        if self.pending is None:
            return
        start, step, metrics = self.pending
        self.pending = None
        metrics = dict(jax.device_get(metrics))
        skipped = metrics.pop("skipped", None)
        read = {name: Mean(float(mean.sum), float(mean.count)) for name, mean in metrics.items()}
        self.sums = {name: self.sums[name].merge(mean) if name in self.sums else mean for name, mean in read.items()}
        if skipped is not None:
            self.count(skipped_steps(skipped.sum, start, step), start, step, state)
        loss = float(read["loss"].value)
        if not math.isfinite(loss):  # without a guard; it lets no such loss into the means
            raise Diverged(f"the loss is {loss} in the steps up to {step}; the checkpoints before it are intact")
        if read["loss"].count:
            self.loss = loss
        if step % self.recipe.train.log_every == 0 or not late:
            self.write(step)

    def count(self, skipped: Sequence[int], start: int, stop: int, state: TrainState) -> None:
        """Write down the steps of a stretch that were not taken; Exhausted where they have become too many."""
        guard = self.recipe.train.guard
        assert guard is not None
        for step in range(start, stop):
            self.in_a_row = self.in_a_row + 1 if step in skipped else 0
            if step not in skipped:
                continue
            self.skipped += 1
            self.note(step, state)
            if self.in_a_row >= guard.budget:
                raise Exhausted(state)

    def note(self, step: int, state: TrainState) -> None:
        """Say which examples a step that was not taken had read, and which of them made it bad where that shows."""
        assert state.guard is not None
        index, source = step + int(state.guard.offset), self.run.source
        examples: dict[str, Any] = {"batch": index, "rows": self.run.culprits(state, step)}
        if source.ids is not None:
            examples["ids"] = list(source.ids(index))
        if self.writer is not None:
            self.writer.scalars(step + 1, {"skipped": self.skipped}, examples)
            self.say(f"step {step + 1} was not taken ({self.skipped} so far): {shown(examples)}")

    def rewind(self, step: int, line: str) -> None:
        """Go back to a step, and say why."""
        self.say(line)
        self.table, self.pending, self.sums, self.loss, self.start = [], None, {}, math.nan, step
        if self.writer is not None:
            self.writer.truncate(step)

    def write(self, step: int) -> None:
        """Write the means since the last row."""
        row = {name: float(mean.value) for name, mean in self.sums.items() if mean.count}
        taken = max(step - 1 - self.skipped, 0)
        row["learning_rate"] = float(self.schedule(jnp.int32(taken)))
        self.sums = {}
        if self.writer is not None:
            self.writer.scalars(step, row)
            if "loss" in row:  # else no step was taken since the last row
                self.say(self.progress.line(step, row["loss"]))

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Write the figures of an evaluation and its examples."""
        if self.writer is None or self.folder is None:
            return
        if not self._was_examined(step):
            self.writer.scalars(step, {f"test/{name}": rate.value for name, rate in evaluation.metrics.items()})
        lines = [json.dumps(example) for example in evaluation.examples]
        self.folder.write("samples.jsonl", "".join(line + "\n" for line in lines))
        shown = ", ".join(f"{n} {r.value:.4f} [{r.low:.4f}, {r.high:.4f}]" for n, r in evaluation.metrics.items())
        self.say(f"step {step}: {shown}")

    def finish(self, step: int, evaluation: Evaluation | None, flops: Sequence[tuple[Stage, int]]) -> dict[str, Any]:
        """Write summary.json and report.html and return the summary; `flops` are those of a step in each stage."""
        seconds, earlier = time.monotonic() - self.begun, self._earlier()
        summary: dict[str, Any] = {
            "recipe": self.recipe.name,
            "step": step,
            "parameters": sum(count for *_, count in self.table),
            "parameter_table": self.table,
            "trained": {self.recipe.task.size_name: list(self.recipe.task.train_sizes)},
            "loss": None if math.isnan(self.loss) else self.loss,
            "skipped": self.skipped,
            "wall_seconds": seconds + earlier.get("wall_seconds", 0.0),
            "tokens_per_second": self.tokens * (step - self.start) / max(seconds, 1e-9),
            "unit": self.unit,
            "flops": sum(each * max(min(step, stage.stop) - stage.start, 0) for stage, each in flops),
            "metrics": {},
            "slices": {},
        }
        if len(flops) > 1:
            summary["flops_full_depth"] = step * flops[-1][1]
            summary["stages"] = [
                {"depth": stage.recipe.model.depth, "start": stage.start, "stop": stage.stop, "step_flops": each}
                for stage, each in flops
            ]
        if step == self.start:  # nothing was left to train: what training said before still stands
            summary |= {name: earlier[name] for name in ("loss", "tokens_per_second") if name in earlier}
        if evaluation is not None:
            summary |= evaluation.figures()
        if self.folder is not None:
            self.folder.write_json("summary.json", summary)
            self.folder.status("done" if step == self.recipe.train.steps else "stopped", step=step)
            self.say(f"report: {write_report(self.folder.path('.'))}")
        return summary

    def _was_examined(self, step: int) -> bool:
        """Say whether the run that this one goes on from wrote the figures of an evaluation at this step."""
        assert self.folder is not None
        rows = read_rows(self.folder.path(METRICS)) if step == self.start else []
        return any(row["step"] == step and any(name.startswith("test/") for name in row) for row in rows)

    def _earlier(self) -> dict[str, Any]:
        """Return the summary that this run goes on from, or nothing."""
        path = None if self.folder is None else self.folder.path("summary.json")
        if path is None or not path.exists():
            return {}
        earlier = json.loads(path.read_text(encoding="utf-8"))
        return earlier if earlier["step"] == self.start else {}

    def close(self) -> None:
        """Close the metric files."""
        if self.writer is not None:
            self.writer.close()


def shown(examples: Mapping[str, Any]) -> str:
    """Return which batch, which of its rows made it bad, and what these or else all of its examples are called."""
    rows, ids = examples["rows"], examples.get("ids", ())
    told = f", rows {' '.join(map(str, rows))}" if rows else ""
    names = " ".join(str(ids[row]) for row in rows or range(len(ids))) if ids else ""
    return f"batch {examples['batch']}{told}{', examples ' + names if names else ''}"


def parameter_table(params: Any) -> list[tuple[str, list[int], int]]:
    """Return [path, shape, count] of every parameter."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), list(x.shape), int(x.size)) for path, x in leaves]
