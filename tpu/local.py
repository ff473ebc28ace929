"""Several processes of one JAX job on this machine, wired through its environment variables as hosts would be."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import IO

from tpu.machine import Action, Limits, Node, Phase, Seen, State, Trouble
from tpu.supervise import supervise

GRACE = 30.0  # seconds between one process's failure and the end of the others
POLL = 0.1


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


class Local:
    """The back end of `--local N`: its node is this machine, and one start is N processes.

    Process 0 writes stdout as it is, everything else goes behind the number of its process.
    """

    def __init__(self, command: Sequence[str], count: int):
        self.command, self.count = command, count
        self.there = False
        self.processes: list[subprocess.Popen[str]] = []
        self.relays: list[threading.Thread] = []
        self.ended: list[int] = []  # processes, in the order of their ends

    def observe(self, phase: Phase) -> Seen:
        """Look at the processes; each end that is not 0 is told once."""
        codes = [process.poll() for process in self.processes]
        for index, code in enumerate(codes):
            if code is not None and index not in self.ended:
                self.ended.append(index)
                if code:
                    print(f"process {index} ended with code {code}", file=sys.stderr, flush=True)
        node: Node = "ready" if self.there else "absent"
        return Seen(node, tuple(codes[index] or 0 for index in self.ended), codes.count(None))

    def act(self, action: Action) -> tuple[Trouble, str]:
        """Start the processes, or kill those that are left; this machine itself needs neither creation nor set-up."""
        if action == "create":
            self.there = True
        elif action == "start":
            self._start()
        elif action == "stop":
            self.signal(signal.SIGKILL)
        return "", ""

    def signal(self, number: int) -> None:
        """Send a signal to every process that lives."""
        for process in self.processes:
            process.send_signal(number)

    def finish(self) -> None:
        """Let the relays write what is left."""
        for each in self.relays:
            each.join(timeout=5)  # a grandchild may still hold the pipe open

    def _start(self) -> None:
        self.finish()
        address = f"127.0.0.1:{free_port()}"
        self.processes, self.relays, self.ended = [], [], []
        for index in range(self.count):
            environment = {
                **os.environ,
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(self.count),
                "JAX_PROCESS_ID": str(index),
            }
            process = subprocess.Popen(
                list(self.command),
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            self.processes.append(process)
            for stream, to, mark in (
                (process.stdout, sys.stdout, "" if index == 0 else f"[{index}] "),
                (process.stderr, sys.stderr, f"[{index}] "),
            ):
                assert stream is not None
                self.relays.append(threading.Thread(target=relay, args=(stream, to, mark), daemon=True))
                self.relays[-1].start()


def run_local(command: Sequence[str], count: int, restarts: int, failures: int, grace: float) -> int:
    """Run a command as `count` processes of one job; returns the exit code of the last attempt.

    SIGTERM and Ctrl-C go to every process, and none is started after them. When a process fails, the others get
    `grace` seconds and are then killed. Preempted attempts (75) are repeated `restarts` times, failed ones
    `failures` times.
    """
    backend, told = Local(command, count), threading.Event()

    def forward(number: int, _frame: object) -> None:
        told.set()
        backend.signal(number)

    def limits() -> Limits:
        again = Limits(restarts=restarts, failures=failures, grace=grace, back_off=1.0)
        return replace(again, restarts=0, failures=0) if told.is_set() else again

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    try:
        state = supervise(
            backend, State(), limits, lambda state: None, halt=told.is_set, poll=POLL, clock=time.monotonic
        )
    finally:
        backend.signal(signal.SIGKILL)  # nobody outlives an error of the launcher itself
        backend.finish()
    return 1 if state.code is None else state.code
