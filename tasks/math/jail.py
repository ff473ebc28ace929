"""Run a program in full Python inside a jail: a process of its own behind limits, namespaces, Landlock and seccomp.

For programs that the interpreter over the syntax tree does not know; that one stays the default. The gold answer
never enters the jail: a program can only name a number, which is compared outside. What it prints goes nowhere.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from lm.exits import UserError
from tasks.math.interpreter import LONGEST_SOURCE, Outcome

LAYERS = ("namespaces", "landlock", "seccomp")  # in the order they rise; UDP, files and forks have no other guard
MEGABYTES = 512
INSIDE = Path(__file__).with_name("jailed.py")


class _Frame(NamedTuple):
    """What the keeper tells: the layer that failed to rise and why, or whether the program ended and its answer."""

    failure: str
    ended: bool
    answer: str


def missing_layers() -> dict[str, str]:
    """Return the layers that fail to rise on this machine, each tried by itself, and why."""
    tried = {layer: _jailed("def solve():\n    return 1", (layer,), 10.0) for layer in LAYERS}
    whys = {layer: "too slow" if frame is None else frame.failure for layer, frame in tried.items()}
    return {layer: why.removeprefix(f"{layer}: ") for layer, why in whys.items() if why}


def run(source: str, seconds: float = 2.0) -> Outcome:
    """Run a program that defines `solve`; UserError where the jail does not rise, whose reasons are never cached.

    Timeout is also the end of programs that sleep or print without end. A layer that fails is never a wrong program.
    """
    if len(source) > LONGEST_SOURCE:
        return Outcome("forbidden")
    frame = _jailed(source, LAYERS, seconds)
    if frame is None:
        return Outcome("timeout")
    if frame.failure:
        missing = missing_layers()
        why = " and ".join(f"{layer} ({why})" for layer, why in missing.items()) or f"a moment ({frame.failure})"
        raise UserError(f"this machine cannot jail programs, for want of {why}; use the interpreter")
    return _read(frame.answer) if frame.ended else Outcome("error")


def run_all(sources: Sequence[str], seconds: float = 2.0, workers: int = 2) -> list[Outcome]:
    """Run programs in the order given, one process each, so many at a time; seconds are for each program."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda source: run(source, seconds), sources))


def _read(answer: str) -> Outcome:
    """Return the outcome of an answer, which a program could have written itself: a word or a finite number."""
    if answer in ("syntax", "non_numeric"):
        return Outcome(answer)
    for number in (int, float):
        with contextlib.suppress(ValueError):
            value = number(answer)
            return Outcome("ok", value) if isinstance(value, int) or math.isfinite(value) else Outcome("non_numeric")
    return Outcome("error")


def _jailed(source: str, layers: Sequence[str], seconds: float) -> _Frame | None:
    """Return the keeper's frame, or None when time ran out and all was killed; UserError where the keeper fell."""
    command = [sys.executable, "-I", "-S", str(INSIDE), ",".join(layers), str(math.ceil(seconds) + 1), str(MEGABYTES)]
    token = secrets.token_hex(16)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, env={}, cwd="/", start_new_session=True
    ) as keeper:
        try:
            told, complaint = keeper.communicate(f"{token}\n{source}".encode(errors="surrogatepass"), seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(keeper.pid, signal.SIGKILL)  # all others die with their parents
            return None
    written, *lines = told.decode(errors="replace").split("\n", 3)
    if written != token or len(lines) != 3:
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        raise UserError(f"the jail itself broke with code {keeper.returncode} ({last}); use the interpreter")
    failure, ended, answer = lines
    return _Frame(failure, ended == "ended", answer)
