"""Measure speed and faults as ratios and differences within one run; exit code 1 where a bar is missed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tyro.conf import Positional

from lm.exits import main_guard
from scripts.benches import BENCHES
from scripts.cli import parse, pick
from scripts.peers.comparison import Comparison
from scripts.peers.environments import FOLDER
from scripts.results import publish


@dataclass(frozen=True)
class Options:
    names: Positional[tuple[str, ...]] = tuple(BENCHES)
    workdir: Path = Path("runs/bench")  # where the runs go; a bench starts with an empty folder
    docs: Path = Path("docs")  # where results/NAME.cpu.json and RESULTS.md go
    peers: Path = FOLDER  # where the peers' environments are, and are built when they are missing


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "bench.py", __doc__)
    chosen = [pick(BENCHES, name, "bench") for name in options.names]
    chosen = [bench.against(options.peers) if isinstance(bench, Comparison) else bench for bench in chosen]
    if not all(publish(b, "cpu", options.workdir, options.docs, f"python scripts/bench.py {b.name}") for b in chosen):
        raise SystemExit(1)


if __name__ == "__main__":
    main_guard(main)
