"""Run the experiments behind papers' claims, print verdicts, write docs/results; exit code 1 where one is missed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tyro.conf import Positional

from lm.exits import UserError, main_guard
from scripts.cli import parse, pick
from scripts.results import publish

COMMAND = "python scripts/reproduce.py"


@dataclass(frozen=True)
class Options:
    names: Positional[tuple[str, ...]] = ()  # experiments, as list.py shows them
    all: bool = False  # every experiment
    scale: Literal["cpu", "full"] = "cpu"  # minutes on a laptop, or the paper's own size
    workdir: Path = Path("runs/reproduce")  # where the runs go; an experiment starts with an empty folder
    docs: Path = Path("docs")  # where results/NAME.SCALE.json and RESULTS.md go


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "reproduce.py", __doc__)
    from tasks.registry import EXPERIMENTS

    chosen = [pick(EXPERIMENTS, name, "experiment") for name in (EXPERIMENTS if options.all else options.names)]
    if not chosen:
        raise UserError(f"name an experiment ({', '.join(EXPERIMENTS)}) or give --all")
    scale, held = options.scale, []
    for each in chosen:
        held.append(publish(each, scale, options.workdir, options.docs, f"{COMMAND} {each.name} --scale {scale}"))
    if not all(held):
        raise SystemExit(1)


if __name__ == "__main__":
    main_guard(main)
