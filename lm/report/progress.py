"""The progress line: `step 120/1000  loss 0.4312  45.1k tokens/s  ETA 0:02:10`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta

WINDOW = 8  # lines


class Progress:
    """Speak of the loss, the speed over the last few lines, and the time that is left at that speed.

    Metrics are read late and in bursts, so a single line says little about speed; the first lines include the
    compilation.
    """

    def __init__(
        self,
        total: int,
        tokens_per_step: float,
        start: int = 0,
        clock: Callable[[], float] = time.monotonic,
        unit: str = "tokens",
    ):
        self._total = total
        self._unit = unit
        self._tokens_per_step = tokens_per_step
        self._clock = clock
        self._marks = deque([(start, clock())], maxlen=WINDOW + 1)

    def line(self, step: int, loss: float) -> str:
        """Return the line of a step."""
        self._marks.append((step, self._clock()))
        (first, begun), (last, now) = self._marks[0], self._marks[-1]
        per_second = (last - first) / max(now - begun, 1e-9)
        left = timedelta(seconds=round((self._total - step) / per_second)) if per_second > 0 else "unknown"
        speed = _short(per_second * self._tokens_per_step)
        return f"step {step}/{self._total}  loss {loss:.4f}  {speed} {self._unit}/s  ETA {left}"


def _short(value: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"
