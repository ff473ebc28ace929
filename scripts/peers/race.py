"""The driver's half of a measurement in turns: sides that take steps one after the other, so that noise meets all.

    ours = Side("scripts.peers.our_step", {"shape": "tiny"})
    peer = Side("scripts.peers.torch_step", {"shape": "tiny"}, python_of("torch"))
    taken = race({"ours": ours, "peer": peer}, cores=1, seconds=2.0, rounds=7)
    ratio(taken["peer"], taken["ours"])      # Spread(value=1.5, low=1.4, high=1.6)

On one core the clock to trust is the processor time of the process: a neighbour who takes the core does not count.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, NamedTuple

from lm.exits import Absent

ROOT = Path(__file__).resolve().parents[2]


class Side(NamedTuple):
    """A worker (see `scripts.peers.serve`), its settings, and the interpreter and environment that it runs with."""

    module: str
    settings: Mapping[str, Any]
    python: Path | str = sys.executable
    env: Mapping[str, str] = MappingProxyType({})


class Taken(NamedTuple):
    """What a side took: seconds of each step in each slice, by the clock on the wall and of the processor."""

    wall: list[list[float]]
    cpu: list[list[float]]
    facts: dict[str, Any]  # what the worker says, and `first_step`: seconds from the start to the end of its first step

    def slices(self, clock: str) -> list[float]:
        """Return the median seconds of a step in each slice."""
        return [median(steps) for steps in getattr(self, clock)]


class Spread(NamedTuple):
    """A median over rounds, the lowest and the highest of them."""

    value: float
    low: float
    high: float

    def figures(self, name: str) -> dict[str, float]:
        """Return the three as figures of a bench."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def spread(values: list[float]) -> Spread:
    """Return the median of values and their range."""
    return Spread(median(values), min(values), max(values))


def ratio(peer: Taken, ours: Taken, clock: str = "cpu") -> Spread:
    """Return how many times as long a step of the peer takes: one ratio a round, of medians."""
    return spread([a / b for a, b in zip(peer.slices(clock), ours.slices(clock), strict=True)])


def race(sides: Mapping[str, Side], cores: int, seconds: float, rounds: int) -> dict[str, Taken]:
    """Start all sides on the same cores and let them take turns: `rounds` slices of `seconds` each.

    Raises Absent where a side ends before it was told to, or where there are not so many cores.
    """
    taken = {name: Taken([], [], {}) for name in sides}
    with contextlib.ExitStack() as stack:
        with pinned(cores):
            workers = {name: stack.enter_context(Worker(name, side, cores)) for name, side in sides.items()}
        for _ in range(rounds):
            for name, worker in workers.items():
                times = worker.ask(f"go {seconds}")
                taken[name].wall.append(times["wall"])
                taken[name].cpu.append(times["cpu"])
        for name, worker in workers.items():
            taken[name].facts.update(worker.ask("facts"), first_step=worker.first_step)
    return taken


@contextlib.contextmanager
def pinned(cores: int) -> Iterator[None]:
    """Start processes on the first so many cores of this one's; raises Absent where it has fewer."""
    if not hasattr(os, "sched_setaffinity"):
        raise Absent("sides are measured on the same cores, which only Linux lets a process choose")
    mine = os.sched_getaffinity(0)
    if len(mine) < cores:
        raise Absent(f"{cores} cores are measured on and this process has {len(mine)}")
    os.sched_setaffinity(0, sorted(mine)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


class Worker:
    """A side that runs, up to the end of its first step; it ends with the context."""

    def __init__(self, name: str, side: Side, cores: int):
        self.name = name
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 (closed at the end of the context)
        begun = time.perf_counter()
        threads = {"OMP_NUM_THREADS": str(cores)}
        self.process = subprocess.Popen(
            [str(side.python), "-m", side.module, json.dumps(dict(side.settings))],
            cwd=ROOT,
            env={**os.environ, **threads, **side.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
        )
        try:
            self._answer()
        except BaseException:
            self.__exit__()
            raise
        self.first_step = time.perf_counter() - begun

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.said.close()

    def ask(self, line: str) -> dict[str, Any]:
        """Return the answer to a line."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer says it better
            print(line, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.said.seek(0)
            last = self.said.read().decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise Absent(f"{self.name} ended with code {self.process.returncode}: {last[0]}")
        return json.loads(line)
