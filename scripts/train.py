"""Train a recipe in a run folder, resume by itself, evaluate; the last line on stdout is the summary as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lm.exits import main_guard
from lm.job import Job
from scripts.cli import in_phases, parse_recipe


@dataclass(frozen=True)
class Options(Job):
    workdir: Path | None = None  # run folder (default: runs/RECIPE)
    until: int | None = None  # stop and save after this step, as a preemption would
    resume: Literal["auto", "must", "never"] = "auto"  # whether to go on from the folder's newest checkpoint
    allow_change: tuple[str, ...] = ()  # fields that may differ from the recipe found in the folder
    quiet: bool = False  # no progress lines
    curriculum: tuple[str, ...] = ()  # a field of the task and its value in each phase: longest_train 5 10 20


def main(argv: list[str]) -> None:
    options, recipe = parse_recipe(Options, argv, "train.py", __doc__)
    from lm.processes import is_main_process, start_processes
    from lm.train import fit

    if options.curriculum:
        recipe = in_phases(recipe, options.curriculum)
    start_processes(options)
    result = fit(
        recipe,
        options.workdir or Path("runs") / recipe.name,
        until=options.until,
        resume=options.resume,
        allow_change=options.allow_change,
        quiet=options.quiet,
        patience=options.patience,
    )
    if is_main_process():
        print(json.dumps(result.summary))


if __name__ == "__main__":
    main_guard(main)
