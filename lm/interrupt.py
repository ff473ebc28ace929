"""A polite end: the first SIGTERM or Ctrl-C asks the loop to save and stop, the second ends at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import jax

from lm.processes import reached_preemption


class Interrupt:
    """Context manager that turns signals into a question the loop asks: `requested(step)`.

    With several processes no handler is installed: JAX's own preemption service makes them agree on a step,
    and a Python handler for SIGTERM would keep that agreement from ever being reached.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._old = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        for each, handler in self._old.items():
            signal.signal(each, handler)

    def requested(self, step: int) -> bool:
        """Say whether the run should save and stop after this step; all processes get the same answer."""
        return self.signal is not None or reached_preemption(step)
