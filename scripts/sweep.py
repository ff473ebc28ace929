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

from lm.exits import main_guard
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
    result = run_sweep(recipe, grid, range(options.seeds), folder, say=lambda line: print(line, file=sys.stderr))
    points: dict[str, list[Any]] = {}
    for member in result.members:
        name = ", ".join(f"{field} {value}" for field, value in member.values.items()) or recipe.name
        points.setdefault(name, []).append(member)
    curves = []
    for name, group in points.items():
        losses = list(zip(*([loss for _, loss in member.losses] for member in group), strict=True))
        mean, low, high = ([rule(each) for each in losses] for rule in (statistics.fmean, min, max))
        curves.append(Series(name, [step for step, _ in group[0].losses], mean, low, high))
        for metric in group[0].evaluation.metrics:
            each = [member.evaluation.metrics[metric].value for member in group]
            spread = f"{min(each):.4f} to {max(each):.4f} over {len(each)} seeds"
            print(f"{name}: {metric} {statistics.fmean(each):.4f} ({spread})")
    rows = [{"seed": m.seed, "values": m.values, "losses": m.losses, **m.evaluation.figures()} for m in result.members]
    content = {"recipe": json.loads(to_json(recipe)), "seconds": result.seconds, "members": rows}
    (folder / "sweep.json").write_text(json.dumps(content, indent=1, default=lambda value: json.loads(to_json(value))))
    chart = standalone(line_chart(curves, x_label="step", y_label="loss", log=True))
    (folder / "sweep.svg").write_text(chart, encoding="utf-8")
    print(f"{len(rows)} runs in {result.seconds:.1f} s: {folder / 'sweep.json'}, {folder / 'sweep.svg'}")


if __name__ == "__main__":
    main_guard(main)
