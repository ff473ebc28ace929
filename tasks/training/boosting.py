"""Training part by part: how a new part begins decides which method of optimisation the stages are.

Agarwal et al. 2024 (arXiv 2403.04978). With zeros it is gradient descent, with a copy of the part before it, times
beta, Nesterov's accelerated descent:

    stages = boost(compose, descend, scaled(0.9), np.zeros(30))    # an endless iterator of predictors

Two ways to add a part are at hand: the sum of an ensemble (here) and the composition of a residual net
(`tasks.training.linear_residual`). Everything is float64 NumPy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Compose = Callable[[Array, Array], Array]  # (predictor, part) -> the predictor with that part on top
Descend = Callable[[Array, Array], Array]  # (predictor, part) -> one gradient step for the part
Begin = Callable[[Array, Array], Array]  # (predictor, part of the stage before) -> where the new part begins


def boost(compose: Compose, descend: Descend, begin: Begin, predictor: Array) -> Iterator[Array]:
    """Yield the predictor before the first stage and after each one; a stage is one gradient step on a new part."""
    part = np.zeros_like(predictor)
    while True:
        yield predictor
        part = begin(predictor, part)
        part = part + descend(predictor, part)
        predictor = compose(predictor, part)


def scaled(beta: float) -> Begin:
    """Begin with beta times the part before: 0 is the zero start, 1 is plain stacking."""
    return lambda predictor, part: beta * part


def noise(scale: float, rng: np.random.Generator) -> Begin:
    """Begin with Gaussian noise of this standard deviation."""
    return lambda predictor, part: scale * rng.normal(size=part.shape)


def trained(beta: float, descend: Descend) -> Begin:
    """Begin with the part before, times a factor that starts at `beta` and takes a gradient step before the part does.

    The loss curves along the part at most |part|^2 times as much as `descend` allows for, so the factor's step is
    the part's own step projected on the part.
    """

    def begin(predictor: Array, part: Array) -> Array:
        step = descend(predictor, beta * part)
        squared = np.sum(part * part)
        return (beta + np.sum(step * part) / squared) * part if squared else part

    return begin


def nesterov(gradient: Callable[[Array], Array], rate: float, beta: float, first: Array) -> Iterator[Array]:
    """Yield the iterates of accelerated descent with constant momentum, as in textbooks; beta 0 is plain descent."""
    before = now = first
    while True:
        yield now
        ahead = now + beta * (now - before)
        before, now = now, ahead - rate * gradient(ahead)


class Quadratic(NamedTuple):
    """The loss (F - goal)' A (F - goal) / 2 over predictors F [d], that of an ensemble's values on d points."""

    curvature_DD: Array
    goal_D: Array

    def loss(self, predictor_D: Array) -> float:
        off_D = predictor_D - self.goal_D
        return float(off_D @ self.curvature_DD @ off_D) / 2

    def gradient(self, predictor_D: Array) -> Array:
        return self.curvature_DD @ (predictor_D - self.goal_D)

    def descend(self, predictor_D: Array, part_D: Array) -> Array:
        """Return the step of a part that is added to the predictor, with rate 1 over the largest curvature, here 1."""
        return -self.gradient(predictor_D + part_D)


def ill_conditioned(kappa: float, width: int = 30, seed: int = 0) -> Quadratic:
    """Return a loss with curvatures evenly spaced on [1/kappa, 1] in random directions, with equal errors at 0."""
    directions_DD = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]
    curvature_DD = directions_DD * np.linspace(1 / kappa, 1, width) @ directions_DD.T
    return Quadratic(curvature_DD, directions_DD.sum(axis=1))


def best_momentum(kappa: float) -> float:
    """Return the beta with which accelerated descent is fastest on a loss of this condition number."""
    return (math.sqrt(kappa) - 1) / (math.sqrt(kappa) + 1)


def stages_needed(problem: Quadratic, begin: Begin, target: float = 1e-6) -> int:
    """Return the 0-based number of the first stage after which an ensemble's loss is below `target`."""
    predictors = boost(np.add, problem.descend, begin, np.zeros_like(problem.goal_D))
    return next(t for t in itertools.count(-1) if problem.loss(next(predictors)) < target)


def log_log_slope(x: Sequence[float] | Array, y: Sequence[float] | Array) -> float:
    """Return the slope of the line through (log x, log y) with the least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
