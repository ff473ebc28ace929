"""Measure speed as ratios within one run, print verdicts, and write docs/results/speed.cpu.json."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tyro.conf import Positional

from lm.exits import main_guard
from scripts.benches import BENCHES, CLAIMS
from scripts.cli import parse, pick
from scripts.results import judge, provenance_of, save, table


@dataclass(frozen=True)
class Options:
    names: Positional[tuple[str, ...]] = tuple(BENCHES)  # data, population, imports; the result file needs them all
    repeats: int = 3  # the whole of each bench, so many times
    docs: Path = Path("docs")  # where results/speed.cpu.json and RESULTS.md go


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "bench.py", __doc__)
    begun, claims = time.monotonic(), []
    for name in options.names:
        bench = pick(BENCHES, name, "bench")
        figures = [bench() for _ in range(options.repeats)]
        judged = [judge(claim, [f[claim.metric] for f in figures], range(options.repeats)) for claim in CLAIMS[name]]
        print(f"{name}\n{table(judged)}\n")
        claims += judged
    if set(options.names) != set(BENCHES):
        return
    head = {"name": "speed", "paper": "Speed", "scale": "cpu", "claims": claims}
    result = {**head, **provenance_of("python scripts/bench.py"), "wall_seconds": round(time.monotonic() - begun, 1)}
    save(result, options.docs)


if __name__ == "__main__":
    main_guard(main)
