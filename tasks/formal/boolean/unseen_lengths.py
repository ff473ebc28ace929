"""Parity of more minus signs than were ever seen: what learners say of them (Abbe et al. 2023, arXiv 2301.13105).

Where at most r of n signs are minus, the full parity is a polynomial of degree r in the number m of minus signs, the
first terms of (1 - 2)^m: beyond r it runs away from the parity, and learners of low degree run with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lm.report.pictures import Lines
from lm.report.svg import Series
from lm.strict import override
from lm.train import fit
from tasks.formal.boolean.unseen import Unseen, degrees
from tasks.formal.boolean.unseen_study import PAPER, learned_values, random_features, unseen_cpu
from tasks.task import Claim, Experiment

TASK = Unseen("parity", bits=10, most=4)
LEARNERS = ("features", "perceptron")
SHOWN = TASK.most + 2  # minus signs up to which the picture reaches; the interpolator outgrows all beyond


def parity(minus: int) -> float:
    """Return the product of signs of which so many are -1."""
    return (-1.0) ** minus


def interpolated(minus: int) -> float:
    """Return what the interpolator of minimum degree says of points with so many minus signs."""
    return float(sum((-2) ** k * math.comb(minus, k) for k in range(TASK.most + 1)))


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Fit the parity where few signs are minus; return the mean said by the number of minus signs."""
    recipe = replace(unseen_cpu(), name="unseen_lengths_cpu", task=TASK)
    result = fit(override(recipe, {"train.seed": seed, "train.steps": 20_000}), workdir / "perceptron", quiet=True)
    fits = {"features": random_features(TASK, seed), "perceptron": learned_values(result.net, result.params, TASK)}
    minus_X, seen_X, first = degrees(TASK.bits), TASK.seen(), TASK.most + 1
    figures = {}
    for name, values_X in fits.items():
        figures |= {f"said/{name}@{m}": float(values_X[minus_X == m].mean()) for m in range(TASK.bits + 1)}
        figures[f"seen_error/{name}"] = float(np.mean(np.square(values_X - TASK.values())[seen_X]))
        figures[f"lean/{name}"] = (figures[f"said/{name}@{first}"] - parity(first)) / (
            interpolated(first) - parity(first)
        )
    return figures


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Lines]:
    """Draw what is said by the number of minus signs: median over the seeds, from the lowest to the highest."""
    counts = range(SHOWN + 1)
    curves = [
        Series("parity", counts, [parity(m) for m in counts]),
        Series("interpolator of minimum degree", counts, [interpolated(m) for m in counts]),
    ]
    for name in LEARNERS:
        each = [figures[f"said/{name}@{m}"] for m in counts]
        curves.append(Series(name, counts, list(map(np.median, each)), list(map(min, each)), list(map(max, each))))
    return [
        Lines(
            "Parity of 10 signs, learned where at most 4 are minus",
            curves,
            "minus signs",
            "value said",
            shaded=(0, TASK.most),
        )
    ]


UNSEEN_LENGTHS = Experiment(
    name="unseen_lengths",
    paper=PAPER,
    claims=tuple(
        Claim(
            PAPER,
            f"Parity of 10 signs seen where at most 4 are minus: at 5, {who} from the truth (0) towards the "
            "interpolator of minimum degree (1)",
            f"lean/{name}",
            at_least=0.05,
            paper_value="(our bar)",
            rule="worst",
        )
        for name, who in (("features", "4,096 random features move"), ("perceptron", "a perceptron moves"))
    ),
    run=run,
    pictures=pictures,
)
