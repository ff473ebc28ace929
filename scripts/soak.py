"""Kill runs at random moments for some minutes and hold what they come to against runs that nobody killed.

Exit code 1 where a promise was broken. With --run FOLDER one such run is trained, and nobody kills it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lm.exits import main_guard
from scripts.cli import parse


@dataclass(frozen=True)
class Options:
    minutes: float = 30.0  # how long to start new kills; what is under way then is brought to its end
    seed: int = 0  # of the layouts, the signals and their moments
    workdir: Path = Path("runs/soak")  # where the runs go
    docs: Path = Path("docs")  # where results/soak.cpu.json and RESULTS.md go
    run: Path | None = None  # train in this folder
    layout: str = "1"  # on this layout


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "soak.py", __doc__)
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Hundreds of starts of few programs: each is compiled once.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(options.workdir.resolve() / "compiled"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    from scripts.results import publish
    from scripts.soaking import experiment, train_in

    if options.run is not None:
        train_in(options.run, options.layout)
        return
    command = f"python scripts/soak.py --minutes {options.minutes:g} --seed {options.seed}"
    if not publish(experiment(options.minutes, options.seed), "cpu", options.workdir, options.docs, command):
        raise SystemExit(1)


if __name__ == "__main__":
    main_guard(main)
