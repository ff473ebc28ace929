"""A polite end: a SIGTERM or Ctrl-C to any one process asks all of them to save the same step and stop.

    with Interrupt() as interrupt:
        for batch in batches:
            interrupt.check()      # raises Preempted; deep inside a loop that knows no Interrupt: safe_point()

Compiled code is not interrupted: a signal that comes meanwhile is heard at the next check. So a process may be ended
the hard way before it has stopped, and what is then lost are the steps since the last save.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from types import FrameType
from typing import Any

import jax

from lm.exits import Preempted
from lm.job import Patience
from lm.processes import fresh, post, posted
from lm.watchdog import Watchdog

POLL = 0.5  # seconds between two looks at what the other processes ask for
STOPPED = "stopped by a signal; what was saved stands, and the same command goes on from there"
CURRENT: ContextVar[Interrupt | None] = ContextVar("interrupt", default=None)


def safe_point() -> None:
    """Say that this loop may stop here without harm, and is alive; Preempted where a signal asked to stop.

    Every process of a job must pass the same safe points. Outside of an Interrupt it does nothing.
    """
    interrupt = CURRENT.get()
    if interrupt is not None:
        interrupt.watchdog.alive()
        interrupt.check()


class Interrupt:
    """Context manager that turns signals into an end at the same check in all processes.

    A thread in each process hears that one of them was asked to stop. Each then tells how many checks it has
    passed, and all stop at the one after the largest number: nobody waits for a step that another never takes.
    A second SIGTERM changes nothing, a second Ctrl-C ends the process at once.
    """

    def __init__(self, watchdog: Watchdog | None = None):
        self.watchdog = watchdog or Watchdog(Patience())
        self._at_once = False
        self.signal: int | None = None
        self._old: dict[int, Any] = {}
        self._passed, self._stop_at, self._told = 0, math.inf, False
        self._turn, self._left = threading.Lock(), threading.Event()
        self._folder = ""
        self._listener: threading.Thread | None = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._old = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        if jax.process_count() > 1:
            self._folder = fresh("stop")
            self._listener = threading.Thread(target=self._listen, daemon=True)
            self._listener.start()
        self._token = CURRENT.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        CURRENT.reset(self._token)
        if self._listener is not None:
            self._left.set()
            self._listener.join()
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the coordinator may be what has failed
                self._tell()
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        if self._at_once:
            raise Preempted(STOPPED)

    def requested(self) -> bool:
        """Say whether to stop here; the n-th call gives the same answer in all processes."""
        if self._listener is None:
            return self.signal is not None
        with self._turn:
            self._passed += 1
            return self._passed >= self._stop_at

    def check(self) -> None:
        """Raise Preempted where the run should stop here, in all processes at the same check."""
        if self.requested():
            raise Preempted(STOPPED)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal end a single process wherever it is, for work that leaves nothing half done."""
        if self._listener is None:
            self.check()
            self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _listen(self) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # without a coordinator JAX ends the process
            while not self._left.wait(POLL):
                if self.signal is not None:
                    post(f"{self._folder}/asked", "")
                if posted(f"{self._folder}/asked"):
                    with self._turn:
                        self._stop_at = self._agree()
                    return

    def _agree(self) -> float:
        self._tell()
        while len(passed := posted(f"{self._folder}/passed")) < jax.process_count():
            if self._left.wait(POLL):
                return math.inf
        return max(map(int, passed.values())) + 1

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            post(f"{self._folder}/passed", str(self._passed))
