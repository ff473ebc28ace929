"""Train a recipe over seeds and values as one program; print a table, leave sweep.json and a plot.
Any field of the recipe takes several values: --optimizer.learning_rate 1e-3 3e-4
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lm.exits import UserError, main_guard
from lm.files import write_whole
from lm.report.svg import Series, line_chart, standalone
from lm.strict import to_json
from scripts.cli import parse_grid


@dataclass(frozen=True)
class Options:
    workdir: Path | None = None  # default: runs/sweep-RECIPE
    seeds: int = 4  # how many, counted from 0


def main(argv: list[str]) -> None:
    options, recipe, grid = parse_grid(Options, argv, "sweep.py", __doc__)
    from lm.sweep import run_sweep

    folder = options.workdir or Path("runs") / f"sweep-{recipe.name}"
    folder.mkdir(parents=True, exist_ok=True)
    said, kept = {"recipe": json.loads(to_json(recipe)), "grid": _plain(grid)}, folder / "sweep.json"
    if kept.exists() and {name: json.loads(kept.read_text()).get(name) for name in said} != said:
        raise UserError(f"{kept} holds another sweep; name another folder with --workdir")
    result = run_sweep(recipe, grid, range(options.seeds), folder, say=lambda line: print(line, file=sys.stderr))
    curves = []
    for name, group in result.points().items():
        losses = list(zip(*([loss for _, loss in member.losses] for member in group), strict=True))
        mean, low, high = ([rule(each) for each in losses] for rule in (statistics.fmean, min, max))
        curves.append(Series(name or recipe.name, [step for step, _ in group[0].losses], mean, low, high))
        for metric in group[0].evaluation.metrics:
            each = [member.evaluation.metrics[metric].value for member in group]
            spread = f"({min(each):.4f} to {max(each):.4f} over {len(each)} seeds)"
            print(f"{name or recipe.name}: {metric} {statistics.fmean(each):.4f} {spread}")
    rows = [{"seed": m.seed, "values": m.values, "losses": m.losses, **m.evaluation.figures()} for m in result.members]
    write_whole(kept, json.dumps({**said, "seconds": result.seconds, "members": _plain(rows)}, indent=1))
    write_whole(kept.with_suffix(".svg"), standalone(line_chart(curves, x_label="step", y_label="loss", log=True)))
    print(f"{len(rows)} runs in {result.seconds:.1f} s: {kept}, {kept.with_suffix('.svg')}")


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda config: json.loads(to_json(config))))


if __name__ == "__main__":
    main_guard(main)
