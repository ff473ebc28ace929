"""The deep linear residual net F_t = (I + W_t) ... (I + W_1), grown one layer a stage.

Agarwal et al. 2024 (arXiv 2403.04978), section 4. A layer that begins as beta times the one below it,

    F_t + beta W_t F_t = F_t + beta (F_t - F_{t-1}) F_{t-1}^{-1} F_t,

is Nesterov's extrapolation up to the factor F_{t-1}^{-1} F_t, which tends to I as the stages converge.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from tasks.training.boosting import Array, Begin, boost


def compose(net_DD: Array, layer_DD: Array) -> Array:
    """Return (I + W) F."""
    return net_DD + layer_DD @ net_DD


class LinearRegression(NamedTuple):
    """The loss E |(F - goal) x|^2 / 2 over linear nets F [d, d] with inputs x of this covariance."""

    covariance_DD: Array
    goal_DD: Array

    def loss(self, net_DD: Array) -> float:
        off_DD = net_DD - self.goal_DD
        return float(np.sum(off_DD @ self.covariance_DD * off_DD)) / 2

    def descend(self, net_DD: Array, layer_DD: Array) -> Array:
        """Return the gradient step of the top layer alone, at rate 1 / |F|^2."""
        slope_DD = (compose(net_DD, layer_DD) - self.goal_DD) @ self.covariance_DD @ net_DD.T
        return -slope_DD / np.linalg.norm(net_DD, 2) ** 2


def near_identity(kappa: float, seed: int, width: int = 16) -> LinearRegression:
    """Return a regression to I + 0.3 orthogonal whose inputs have variances from 1/kappa to 1, evenly in their logs."""
    rng = np.random.default_rng(seed)
    directions_DD = np.linalg.qr(rng.normal(size=(width, width)))[0]
    orthogonal_DD = np.linalg.qr(rng.normal(size=(width, width)))[0]
    covariance_DD = directions_DD * np.geomspace(1 / kappa, 1, width) @ directions_DD.T
    return LinearRegression(covariance_DD, np.eye(width) + 0.3 * orthogonal_DD)


def losses(problem: LinearRegression, begin: Begin, stages: int) -> list[float]:
    """Return the loss of the net of no layer, one layer, and so on up to `stages` layers."""
    nets = boost(compose, problem.descend, begin, np.eye(len(problem.goal_DD)))
    return [problem.loss(net_DD) for net_DD in itertools.islice(nets, stages + 1)]
