"""Several corpora in one stream of batches, by weights that change from phase to phase; all of it data.

phases = (Phase(0.5, (("text", 1.0),)), Phase(0.5, (("text", 0.6), ("problems", 0.4))))
mixture = Mixture({"text": text, "problems": problems}, phases, batch_size=16, steps=1000)
batch = mixture.at(step)

A source is a Corpus with a batch size of 1. Each example of a batch comes from one source. The counts follow the
weights exactly, and a source goes on where it stood when the phase changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import jax
import numpy as np

from lm.strict import ConfigError, nearest
from lm.types import Example


class Stream(Protocol):
    """A source of examples by number: `at(number)` is a batch of one, pure in the number."""

    def at(self, step: int) -> Example: ...

    def ids(self, step: int) -> list[int]: ...


@dataclass(frozen=True)
class Phase:
    """A share of all steps, and the weight of each source in it, as (source, weight) pairs; weights need no sum."""

    share: float
    weights: tuple[tuple[str, float], ...]

    def __post_init__(self):
        if not self.share > 0 or not math.isfinite(self.share):
            raise ConfigError(f"phases.share must be positive, got {self.share}")
        if any(not weight >= 0 for _, weight in self.weights) or not sum(weight for _, weight in self.weights) > 0:
            raise ConfigError(f"phases.weights must not be negative, and one must be positive, got {self.weights}")


def boundaries(phases: tuple[Phase, ...], steps: int) -> list[int]:
    """Return the step at which each phase ends; the last is `steps`. Shares count in proportion to their sum."""
    if not phases:
        raise ConfigError("phases must hold at least one phase")
    total, ends, passed = sum(phase.share for phase in phases), [], 0.0
    for phase in phases:
        passed += phase.share
        ends.append(round(steps * passed / total))
    if any(a >= b for a, b in zip([0, *ends], ends, strict=False)):
        raise ConfigError(f"every phase must hold a step: {steps} steps end phases at {ends}")
    return ends


class Mixture:
    """Batches that mix sources by phase: `at(step)` is a pure function of the step.

    Example i of a phase goes to the source that is furthest behind its share of i + 1 examples, so that after any
    number of examples each source has its share to within one example a source.
    """

    def __init__(self, sources: Mapping[str, Stream], phases: tuple[Phase, ...], batch_size: int, steps: int):
        for phase in phases:
            for name, _ in phase.weights:
                if name not in sources:
                    known = ", ".join(sources)
                    raise ConfigError(f"phases.weights: no source {name!r}{nearest(name, sources)} (sources: {known})")
        self.sources, self.batch_size, self.names = sources, batch_size, tuple(sources)
        self._ends = boundaries(phases, steps)
        self._weights = [dict(phase.weights) for phase in phases]
        starts = [0, *self._ends]
        lengths = [(b - a) * batch_size for a, b in zip(starts, self._ends, strict=False)]
        # One byte an example of the whole run, drawn up once: which source it comes from.
        self._source = np.concatenate([self._order(w, n) for w, n in zip(self._weights, lengths, strict=True)])
        self._number = np.empty(len(self._source), np.int64)
        for index in range(len(self.names)):
            places = np.flatnonzero(self._source == index)
            self._number[places] = np.arange(len(places))

    def _order(self, weights: Mapping[str, float], count: int) -> np.ndarray:
        exact = [Fraction(weights.get(name, 0)).limit_denominator(10**6) for name in self.names]
        shares = np.array([float(share / sum(exact)) for share in exact])
        given, order = np.zeros(len(shares)), np.empty(count, np.uint8)
        for i in range(count):
            order[i] = np.argmax(np.where(shares > 0, shares * (i + 1) - given, -np.inf))
            given[order[i]] += 1
        return order

    def counts(self, first: int = 0, last: int | None = None) -> dict[str, int]:
        """Return how many examples the steps from `first` up to `last` take from each source."""
        part = self._source[first * self.batch_size : None if last is None else last * self.batch_size]
        return {name: int(np.count_nonzero(part == index)) for index, name in enumerate(self.names)}

    def at(self, step: int) -> Example:
        """Return the batch of a step, NumPy arrays [B, ...]; IndexError behind the last step."""
        rows = [self.sources[name].at(number) for name, number in self._rows(step)]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)

    def ids(self, step: int) -> list[str]:
        """Return the source of each example of a step, and what it calls it: `text 17`."""
        return [f"{name} {self.sources[name].ids(number)[0]}" for name, number in self._rows(step)]

    def _rows(self, step: int) -> list[tuple[str, int]]:
        place = slice(int(step) * self.batch_size, (int(step) + 1) * self.batch_size)
        if not 0 <= place.start < len(self._source):
            raise IndexError(f"step {step} is none of the {len(self._source) // self.batch_size} of the mixture")
        return [(self.names[s], int(n)) for s, n in zip(self._source[place], self._number[place], strict=True)]
