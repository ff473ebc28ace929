"""What benches measure with: seconds in turns, scripts as commands, kills, differences of trees."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any


def seconds(*calls: Callable[[], Any], rounds: int = 7, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Return the median seconds of each call; the calls take turns, so that a noisy neighbour meets all alike."""
    import jax

    times: list[list[float]] = [[] for _ in calls]
    for round_ in range(rounds + 1):
        for call, kept in zip(calls, times, strict=True):
            begun = clock()
            jax.block_until_ready(call())
            if round_:  # the first round compiles
                kept.append(clock() - begun)
    return [median(kept) for kept in times]


def command(*words: object, devices: int = 1, launch: Sequence[str] = ()) -> float:
    """Run a script of this project and return its seconds."""
    begun = time.perf_counter()
    subprocess.run(
        [*launch, sys.executable, *map(str, words)],
        check=True,
        capture_output=True,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
    )
    return time.perf_counter() - begun


def largest_difference(a: Any, b: Any) -> float:
    """Return the largest absolute difference of two trees."""
    import jax
    import numpy as np

    return max(float(np.max(np.abs(x - y))) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def killed(rng: random.Random, line: Sequence[str], times: int = 3) -> int:
    """Start a command so many times and kill -9 it at a random moment after its first checkpoint; count the kills."""
    kills = 0
    checkpoints = Path(line[-1]) / "checkpoints"
    for _ in range(times):
        with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            before = newest(checkpoints)
            while newest(checkpoints) == before and process.poll() is None:
                time.sleep(0.02)
            time.sleep(rng.random())
            process.send_signal(signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
    return kills


def newest(checkpoints: Path) -> int:
    """Return the newest committed step in a folder, -1 where there is none."""
    return max((int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()), default=-1)
