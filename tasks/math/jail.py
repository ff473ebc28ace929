"""Run a program in full Python inside a jail: a process of its own behind limits, Landlock and namespaces.

For programs that the interpreter over the syntax tree does not know; that one stays the default. The gold answer
never enters the jail: a program can only name a number, which is compared outside.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lm.exits import UserError
from tasks.math.interpreter import LONGEST_SOURCE, Outcome

LAYERS = ("landlock", "namespaces")  # both are needed: files and UDP have no other guard
MOST_OUTPUT = 65_536  # bytes
MEGABYTES = 512
ANSWER = "\nprint('\\n=' + repr(solve()), flush=True)\n"


@functools.cache
def active_layers() -> tuple[str, ...]:
    """Return the isolating layers that rise on this machine, each tried by itself."""
    return tuple(layer for layer in LAYERS if _jailed("print(1)", (layer,), 10.0)[:2] == (0, b"1\n"))


def run(source: str, seconds: float = 2.0) -> Outcome:
    """Run a program that defines `solve` in the jail; UserError where this machine cannot build one."""
    missing = [layer for layer in LAYERS if layer not in active_layers()]
    if missing:
        raise UserError(f"this machine cannot jail programs, for want of {' and '.join(missing)}; use the interpreter")
    if len(source) > LONGEST_SOURCE:
        return Outcome("forbidden")
    code, output, late = _jailed(source + ANSWER, LAYERS, seconds)
    if late:
        return Outcome("timeout")
    return _read(output) if code == 0 else Outcome("error")


def run_all(sources: Sequence[str], seconds: float = 2.0, workers: int = 2) -> list[Outcome]:
    """Run programs in the order given, one process each, so many at a time; seconds are for each program."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda source: run(source, seconds), sources))


def _read(output: bytes) -> Outcome:
    """Return the outcome that the last line names."""
    line = output.decode(errors="replace").rstrip("\n").rpartition("\n")[2]
    if not line.startswith("="):
        return Outcome("error")
    with contextlib.suppress(ValueError):
        return Outcome("ok", int(line[1:]))
    with contextlib.suppress(ValueError):
        value = float(line[1:])
        return Outcome("ok", value) if math.isfinite(value) else Outcome("non_numeric")
    return Outcome("non_numeric")


def _jailed(source: str, layers: tuple[str, ...], seconds: float) -> tuple[int, bytes, bool]:
    """Return the exit code, the output and whether time or output ran out, when the whole group was killed."""
    inside = Path(__file__).with_name("jailed.py")
    command = [sys.executable, "-I", "-S", str(inside), ",".join(layers), str(math.ceil(seconds) + 1), str(MEGABYTES)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **pipes, env={}, cwd="/", start_new_session=True, close_fds=True)
    with process:
        with contextlib.suppress(BrokenPipeError), process.stdin as sink:
            sink.write(source.encode(errors="replace"))  # within one pipe's buffer: LONGEST_SOURCE
        output, late = _collect(process.stdout, time.monotonic() + seconds)
        with contextlib.suppress(ProcessLookupError):
            if late:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output, late


def _collect(pipe, deadline: float) -> tuple[bytes, bool]:
    """Return what comes through a pipe and whether it was too much or took too long."""
    output = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while len(output) <= MOST_OUTPUT:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return output, True
            piece = os.read(pipe.fileno(), 8192)
            if not piece:
                return output, False
            output += piece
    return output, True
