"""The worker's half of a measurement in turns: a program stays resident and takes steps when it is told to.

    serve(step, facts)       # step() takes steps and returns how many; facts() says what else is worth knowing

A worker is a module that is run as `python -m MODULE SETTINGS`, in any environment: this file needs none of ours. It
takes a first step at once and says so; then it answers lines on stdin with one line of JSON each:

    go SECONDS    {"cpu": [...], "wall": [...]}, seconds of each step
    facts         {"peak_memory": bytes, ...}
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any


def settings() -> dict[str, Any]:
    """Return what the driver has given to this worker."""
    return json.loads(sys.argv[1])


def versions(*names: str) -> dict[str, str]:
    """Return the versions of installed distributions."""
    return {name: version(name) for name in names}


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def peak_memory() -> int:
    """Return the most bytes that this program has held; what `getrusage` says begins with the parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def processor_seconds() -> float:
    """Return the seconds of this process and of those that it started and has seen end."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def serve(step: Callable[[], int], facts: Callable[[], Mapping[str, Any]]) -> None:
    """Take a first step, then do what stdin says until it ends; `step` returns when its work is done."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what libraries print is not an answer

        def answer(words: Mapping[str, Any]) -> None:
            print(json.dumps(words), file=answers, flush=True)

        answer({"steps": step()})
        for line in sys.stdin:
            if line.strip() == "facts":
                answer({"peak_memory": peak_memory(), **facts()})
            else:
                answer(_times(step, float(line.split()[1])))


def _times(step: Callable[[], int], seconds: float) -> dict[str, list[float]]:
    cpu: list[float] = []
    wall: list[float] = []
    end = time.perf_counter() + seconds
    while not wall or time.perf_counter() < end:
        begun, used = time.perf_counter(), processor_seconds()
        steps = step()
        cpu.append((processor_seconds() - used) / steps)
        wall.append((time.perf_counter() - begun) / steps)
    return {"cpu": cpu, "wall": wall}
