"""What a run says while it runs: progress lines, metrics, samples, the summary and the report."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lm.config import Recipe
from lm.exits import Diverged, Unusable
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
        self.schedule = schedule_of(recipe)
        self.begun, self.start = time.monotonic(), start
        self.table: list[tuple[str, list[int], int]] = []
        self.tokens, self.unit = 0, "tokens"
        self.pending: tuple[int, Metrics] | None = None
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

    def record(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of the stretch that ended at `step`; reads those of the stretch before it."""
        self.flush(late=True)
        self.pending = (step, metrics)

    def flush(self, late: bool = False) -> None:
        """Read what is pending; Diverged where a loss is not finite. A row is written at each log step."""
        if self.pending is None:
            return
        step, metrics = self.pending
        self.pending = None
        read = {name: Mean(float(mean.sum), float(mean.count)) for name, mean in jax.device_get(metrics).items()}
        self.sums = {name: self.sums[name].merge(mean) if name in self.sums else mean for name, mean in read.items()}
        self.loss = float(read["loss"].value)
        if not math.isfinite(self.loss):
            raise Diverged(f"the loss is {self.loss} in the steps up to {step}; the checkpoints before it are intact")
        if step % self.recipe.train.log_every == 0 or not late:
            self.write(step)

    def write(self, step: int) -> None:
        """Write the means since the last row."""
        row = {name: float(mean.value) for name, mean in self.sums.items()}
        row["learning_rate"] = float(self.schedule(jnp.int32(max(step - 1, 0))))
        self.sums = {}
        if self.writer is not None:
            self.writer.scalars(step, row)
            self.say(self.progress.line(step, row["loss"]))

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Write the figures of an evaluation and its examples."""
        if self.writer is None or self.folder is None:
            return
        if not self._was_examined(step):
            self.writer.scalars(step, {f"test/{name}": rate.value for name, rate in evaluation.metrics.items()})
        lines = [json.dumps(example) for example in evaluation.examples]
        self.folder.path("samples.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
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


def parameter_table(params: Any) -> list[tuple[str, list[int], int]]:
    """Return [path, shape, count] of every parameter."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), list(x.shape), int(x.size)) for path, x in leaves]
