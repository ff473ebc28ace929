"""The tables of stacking as accelerated descent: stages against condition number, and losses of deep linear nets."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from tasks.training.boosting import (
    Array,
    Begin,
    best_momentum,
    boost,
    ill_conditioned,
    log_log_slope,
    nesterov,
    noise,
    scaled,
    stages_needed,
    trained,
)
from tasks.training.linear_residual import LinearRegression, compose, losses, near_identity

KAPPAS = (10, 100, 1_000, 10_000)
LOOKS = (10, 30, 60)  # stages after which a net's loss is written down
SEEDS = 5

# 0-based numbers of the first stage with a loss below 1e-6; a column for each start, a row for each condition number.
ENSEMBLE_STAGES = {
    "zero": (51, 423, 3_105, 19_559),
    "best": (19, 58, 151, 342),
    "0.9": (44, 67, 291, 1_948),
    "1": (72, 140, 346, 158),
}
# Losses after 10, 30 and 60 stages with condition numbers 10, 100 and 1,000 in turn, means of 5 seeds, to one digit.
NET_LOSSES = {
    "zero": (6e-3, 4e-4, 2e-5, 9e-3, 3e-3, 1e-3, 6e-3, 2e-3, 1e-3),
    "0.5": (1e-3, 1e-5, 4e-8, 5e-3, 1e-3, 3e-4, 4e-3, 1e-3, 6e-4),
    "0.8": (3e-3, 5e-6, 1e-9, 4e-3, 3e-4, 4e-5, 3e-3, 6e-4, 3e-4),
    "0.9": (1e-2, 2e-4, 1e-6, 7e-3, 7e-4, 2e-5, 5e-3, 1e-3, 3e-4),
    "1": (4e-2, 6e-3, 8e-4, 2e-2, 2e-2, 9e-3, 1e-2, 1e-2, 1e-2),
}


def ensemble_stages(start: str) -> list[int]:
    """Return the stages that an ensemble needs with a start of ENSEMBLE_STAGES or `trained`, for each of KAPPAS."""
    found = []
    for kappa in KAPPAS:
        problem, best = ill_conditioned(kappa), best_momentum(kappa)
        named = {"zero": 0.0, "best": best, "0.9": 0.9, "1": 1.0}
        begin = trained(best, problem.descend) if start == "trained" else scaled(named[start])
        found.append(stages_needed(problem, begin))
    return found


def net_starts(problem: LinearRegression, seed: int) -> dict[str, Begin]:
    """Return every way in which a layer of a linear net may begin."""
    return {
        "zero": scaled(0.0),
        "random": noise(0.02, np.random.default_rng(seed)),
        "0.5": scaled(0.5),
        "0.8": scaled(0.8),
        "0.9": scaled(0.9),
        "1": scaled(1.0),
        "trained": trained(0.9, problem.descend),
    }


def net_losses() -> dict[str, Array]:
    """Return the loss of linear nets by start, the mean of the seeds, [condition numbers 10 to 1,000, LOOKS]."""
    found: dict[str, list[list[float]]] = {}
    for kappa in KAPPAS[:3]:
        for seed in range(SEEDS):
            problem = near_identity(kappa, seed)
            for start, begin in net_starts(problem, seed).items():
                curve = losses(problem, begin, LOOKS[-1])
                found.setdefault(start, []).append([curve[stage] for stage in LOOKS])
    return {start: np.reshape(rows, (3, SEEDS, len(LOOKS))).mean(axis=1) for start, rows in found.items()}


def off_descent() -> float:
    """Return how far an ensemble grown by scaled copies is from accelerated descent, at worst in 50 stages."""
    problem, first, gaps = ill_conditioned(100), np.zeros(30), []
    for beta in (0.0, best_momentum(100), 1.0):
        grown = boost(np.add, problem.descend, scaled(beta), first)
        descended = nesterov(problem.gradient, 1.0, beta, first)
        gaps += [np.abs(a - b).max() for a, b in itertools.islice(zip(grown, descended, strict=True), 51)]
    return max(gaps)


def off_extrapolation() -> float:
    """Return how far a net with a copied layer on top is from the closed form of its extrapolation, at worst."""
    now, gaps = np.eye(8), []
    for layer_DD in np.random.default_rng(0).normal(scale=0.05, size=(6, 8, 8)):
        before, now = now, compose(now, layer_DD)
        for beta in (0.5, 1.0):
            extrapolated = now + beta * (now - before) @ np.linalg.inv(before) @ now
            gaps.append(np.abs(compose(now, scaled(beta)(now, layer_DD)) - extrapolated).max())
    return max(gaps)


def theory() -> Mapping[str, float]:
    """Return the figures of both tables."""
    stages = {start: np.array(ensemble_stages(start)) for start in (*ENSEMBLE_STAGES, "trained")}
    slopes = {start: log_log_slope(KAPPAS, row) for start, row in stages.items()}
    nets = net_losses()
    last = {start: rows[1, -1] for start, rows in nets.items()}  # condition number 100, 60 stages
    figures = {
        "ensemble_off_descent": off_descent(),
        "net_off_extrapolation": off_extrapolation(),
        "stages_off_the_table": max(np.abs(stages[start] - row).max() for start, row in ENSEMBLE_STAGES.items()),
        "zero_over_best_100": stages["zero"][1] / stages["best"][1],
        "zero_over_best_1000": stages["zero"][2] / stages["best"][2],
        "zero_slope_off": abs(slopes["zero"] - 0.85),
        "best_slope_off": abs(slopes["best"] - 0.42),
        "trained_over_best": np.max(stages["trained"] / stages["best"]),
        "net_factor_off_the_table": max(
            np.exp(np.abs(np.log(nets[start].ravel() / row)).max()) for start, row in NET_LOSSES.items()
        ),
        "net_zero_over_stacked": last["zero"] / max(last["0.8"], last["0.9"]),
        "net_plain_over_zero": last["1"] / last["zero"],
        "net_random_over_zero": last["random"] / last["zero"],
        "net_trained_over_scaled": last["trained"] / last["0.9"],
    }
    figures |= {f"slope_{start}": slope for start, slope in slopes.items()}
    figures |= {f"stages_trained_{kappa}": count for kappa, count in zip(KAPPAS, stages["trained"], strict=True)}
    return {name: float(figure) for name, figure in figures.items()}
