"""A watchdog: a process in which no step ends says where it stands and ends, and so do the others of its job.

    with Watchdog(Patience(), run_folder) as watchdog:
        watchdog.compiling()
        for batch in batches:
            step(batch)
            watchdog.stepped()
        with watchdog.slow("evaluating"):
            evaluate()

JAX notices a process that is dead, by its heartbeat, but not one that waits for ever: heartbeats come from a thread
of their own. And it ends the others with an abort, which leaves them no time to say why.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import NoReturn

import jax

from lm.exits import Preempted
from lm.job import Patience
from lm.processes import fresh, post, posted
from lm.report.folder import RunFolder
from lm.rollcall import numbers

PERIOD = 1.0  # seconds between two looks
ASLEEP = 10.0  # seconds between two looks after which this process itself was stopped, as by Ctrl-Z
GRACE = 2.0  # seconds that a process has to find out by itself what another one failed of
LAST_WORDS = 20.0  # seconds to write them; the disk may be what hangs
REMEMBERED = 50  # stretches whose durations are kept


class Watchdog:
    """Context manager that ends the process by os._exit(1) where nothing moves within its patience.

    Before that the stacks of all threads go to stderr and to the log of `folder`, and the reason to its status. With
    several processes everyone ends as soon as one of them has left the context by an error or says nothing any more.
    """

    def __init__(self, patience: Patience, folder: RunFolder | None = None):
        self._patience, self.folder = patience, folder
        self._phase: str | None = None  # None is not watched
        self._since, self._past = time.monotonic(), deque[float](maxlen=REMEMBERED)
        self._left = threading.Event()
        self._company: Company | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watchdog:
        if jax.process_count() > 1:
            self._company = Company(self._patience.silence)
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._left.set()
        self._thread.join()
        if self._company is not None and error is not None and not isinstance(error, Preempted):
            self._company.report(f"{type(error).__name__}: {error}")

    def compiling(self) -> None:
        """Begin a program that was not run before: what its first stretches take is no measure."""
        self._past.clear()
        self._phase, self._since = "compiling", time.monotonic()

    def stepped(self) -> None:
        """Note that a stretch of steps has ended."""
        now = time.monotonic()
        if self._phase == "stepping":
            self._past.append(now - self._since)
        self._phase, self._since = "stepping", now

    def alive(self) -> None:
        """Note that something slow has moved on."""
        self._since = time.monotonic()

    @contextlib.contextmanager
    def slow(self, what: str) -> Iterator[None]:
        """Allow more time for something beside the steps."""
        before = self._phase
        self._phase, self._since = what, time.monotonic()
        try:
            yield
        finally:
            self._phase, self._since = before, time.monotonic()

    def limit(self) -> float:
        """Return how many seconds the present phase may take."""
        if self._phase != "stepping" or len(self._past) < 3:
            return self._patience.slow
        return max(self._patience.floor, self._patience.factor * statistics.median(self._past))

    def overdue(self, now: float) -> str | None:
        """Return what is wrong where the present phase takes too long."""
        if self._phase is None or now - self._since <= self.limit():
            return None
        return f"no step ended within {self.limit():g} s while {self._phase}"

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._left.wait(PERIOD):
            now = time.monotonic()
            if now - last > ASLEEP:
                self._since += now - last
            last = now
            if reason := self.overdue(now):
                self._end(reason, stacks=True)
            if self._company is not None and (reason := self._company.trouble(now)):
                self._end(reason)

    def _dump(self) -> None:
        faulthandler.dump_traceback(sys.stderr)
        if self.folder is not None:
            with self.folder.path("log.txt").open("a") as file:
                faulthandler.dump_traceback(file)

    def _end(self, reason: str, stacks: bool = False) -> NoReturn:
        hurry = threading.Timer(LAST_WORDS, os._exit, (1,))
        hurry.daemon = True
        hurry.start()
        if self._company is not None:  # first of all: to the others what takes long to write is silence
            self._company.report(reason)
        if stacks:
            self._dump()
        print(f"error: {reason}", file=sys.stderr, flush=True)
        if self.folder is not None:
            self.folder.log(reason)
            self.folder.status("failed", error=reason)
        os._exit(1)


class Company:
    """What the processes of a job tell each other while they work: that they live, or what they failed of."""

    def __init__(self, silence: float):
        self._silence = silence
        self._folder, self._count = fresh("company"), 0
        now = time.monotonic()
        self._heard = {index: ("", now) for index in range(jax.process_count())}  # the last pulse, and when it came
        self._failure = math.inf  # when one was first read

    def report(self, reason: str) -> None:
        """Tell the others that this process has failed."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the coordinator may be what has failed
            post(f"{self._folder}/failed", reason.splitlines()[0])

    def trouble(self, now: float) -> str | None:
        """Return what is wrong with another process, or None."""
        me = jax.process_index()
        try:
            self._count += 1
            post(f"{self._folder}/pulse", str(self._count))
            failed = {index: said for index, said in posted(f"{self._folder}/failed").items() if index != me}
            if failed:
                self._failure = min(self._failure, now)
                if now - self._failure >= GRACE:
                    return "; ".join(f"process {index} has failed: {said}" for index, said in failed.items())
            pulses = posted(f"{self._folder}/pulse") if me == 0 else {}
        except jax.errors.JaxRuntimeError as error:
            return f"the coordinator in process 0 is gone ({str(error).splitlines()[0]})"
        for index, pulse in pulses.items():
            if self._heard[index][0] != pulse:
                self._heard[index] = (pulse, now)
        # One that has said what it failed of has no more to say: its reason is the one to give.
        silent = [i for i, (_, since) in self._heard.items() if i not in failed and now - since > self._silence]
        return f"{numbers(silent)} said nothing for {self._silence:g} s" if me == 0 and silent else None
