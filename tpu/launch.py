"""Start one command as several processes of one JAX job.

    python tpu/launch.py --local 2 -- python scripts/train.py flip_flop_cpu

`--local N` starts N processes on this machine, wired through JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID exactly as a slice of N hosts would be. SIGTERM and Ctrl-C go to every process. When one fails the
others get a grace period and are then ended; the exit code is the first failure's, or 0.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

GRACE = 30.0  # seconds between one process's failure and the end of the others


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def relay(stream: IO[str], to: IO[str], mark: str) -> None:
    """Copy lines, each behind the number of the process that wrote it; gloo's connection lines are left out."""
    for line in stream:
        if "[Gloo]" not in line:
            to.write(f"{mark}{line}")
            to.flush()


def start(command: Sequence[str], count: int) -> tuple[list[subprocess.Popen[str]], list[threading.Thread]]:
    """Start `count` processes of one job and the threads that relay their output.

    Process 0 writes stdout as it is, everything else goes behind the number of its process.
    """
    address = f"127.0.0.1:{free_port()}"
    processes, relays = [], []
    for index in range(count):
        environment = {
            **os.environ,
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(index),
        }
        process = subprocess.Popen(
            list(command), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        for stream, to, mark in (
            (process.stdout, sys.stdout, "" if index == 0 else f"[{index}] "),
            (process.stderr, sys.stderr, f"[{index}] "),
        ):
            assert stream is not None
            relays.append(threading.Thread(target=relay, args=(stream, to, mark), daemon=True))
            relays[-1].start()
        processes.append(process)
    return processes, relays


def wait(processes: Sequence[subprocess.Popen[str]], grace: float = GRACE) -> int:
    """Wait for all; once one has failed, end the others after the grace period. Returns the exit code."""
    failed, since = 0, 0.0
    while True:
        codes = [process.poll() for process in processes]
        first = next((code for code in codes if code), 0)
        if first and not failed:
            failed, since = first, time.monotonic()
            print(f"process {codes.index(first)} ended with code {first}", file=sys.stderr)
        if None not in codes:
            return failed
        if failed and time.monotonic() - since > grace:
            for process in processes:
                process.kill()
        time.sleep(0.1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local", type=int, required=True, metavar="N", help="processes on this machine")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ...")
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if options.local < 1 or not command:
        parser.error("give --local N with N of at least 1, and a command behind --")
    processes, relays = start(command, options.local)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda s, _: [process.send_signal(s) for process in processes])
    code = wait(processes)
    for each in relays:
        each.join(timeout=5)  # a grandchild may still hold the pipe open
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())
