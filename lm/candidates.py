"""Choosing an answer among candidates, and what many candidates are worth: pure functions of Python values.

majority_vote([Fraction(1, 2), 3, 0.5, None])  ->  Fraction(1, 2)
pass_at_k(samples=4, correct=1, k=2)  ->  0.5
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, groupby
from numbers import Rational, Real
from random import Random
from typing import Any, NamedTuple

import numpy as np

from lm.strict import ConfigError

DECIMALS = 3  # answers that agree to so many decimals are one answer
SUBSETS = 50  # that a vote of some of the candidates is estimated from


def majority_vote(answers: Sequence[Any]) -> Any:
    """Return the most frequent number, ties to the first seen; what is no number does not vote (None if none does)."""
    return _vote(answers, [1.0] * len(answers))


def weighted_vote(answers: Sequence[Any], scores: Sequence[float]) -> Any:
    """Return the number with the largest sum of sigmoid(score) over the candidates that gave it."""
    return _vote(answers, [sigmoid(score) for score in scores])


def best_score(answers: Sequence[Any], scores: Sequence[float]) -> Any:
    """Return the answer of the candidate with the highest score, ties to the first."""
    return answers[max(range(len(scores)), key=scores.__getitem__)]


def sigmoid(score: float) -> float:
    """Return 1 / (1 + exp(-score)), for any finite score."""
    return 0.5 * (1 + math.tanh(score / 2))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Return the chance that k of the samples, drawn without return, hold a correct one: 1 - C(n-c, k) / C(n, k).

    Unbiased for the chance that k fresh samples do (Chen et al. 2021, section 2.1).
    """
    _check_subset(samples, k)
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def best_at_k(correct: Sequence[bool], scores: Sequence[float], k: int) -> float:
    """Return the chance that the best-scored of k samples, drawn without return, is correct.

    The sample of rank j wins with probability C(n-j, k-1) / C(n, k); equal scores share their ranks.
    """
    samples = len(correct)
    _check_subset(samples, k)
    wins = [math.comb(samples - rank, k - 1) / math.comb(samples, k) for rank in range(1, samples + 1)]
    order = sorted(range(samples), key=scores.__getitem__, reverse=True)
    total, rank = 0.0, 0
    for _, group in groupby(order, key=scores.__getitem__):
        members = list(group)
        share = sum(wins[rank : rank + len(members)]) / len(members)
        total += share * sum(bool(correct[i]) for i in members)
        rank += len(members)
    return total


def vote_at_k(answers: Sequence[Any], correct: Sequence[bool], k: int, scores: Sequence[float] | None = None) -> float:
    """Return the share of subsets of k samples whose vote, weighted where there are scores, is correct.

    All subsets are counted where they are at most SUBSETS, else so many random ones, the same at every call.
    """
    samples = len(answers)
    _check_subset(samples, k)
    weights = [1.0] * samples if scores is None else [sigmoid(score) for score in scores]
    if math.comb(samples, k) <= SUBSETS:
        subsets = list(combinations(range(samples), k))
    else:
        rng = Random(k)
        subsets = [tuple(rng.sample(range(samples), k)) for _ in range(SUBSETS)]
    won = 0
    for subset in subsets:
        answer = _vote([answers[i] for i in subset], [weights[i] for i in subset])
        won += answer is not None and any(correct[i] for i in subset if answers[i] == answer)
    return won / len(subsets)


def auroc(correct: Sequence[bool] | np.ndarray, scores: Sequence[float] | np.ndarray) -> float:
    """Return the chance that a correct candidate scores above a wrong one, ties counted half.

    It is 0.5 where all are correct or none is.
    """
    right, values = np.asarray(correct, bool), np.asarray(scores, float)
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]  # equal scores share their ranks
    yes, no = int(right.sum()), int((~right).sum())
    return float((ranks[right].sum() - yes * (yes + 1) / 2) / (yes * no)) if yes and no else 0.5


class Bin(NamedTuple):
    """The candidates whose probability lies in one stretch: how many, how many of them correct, and their mean."""

    middle: float
    size: int
    correct: int
    probability: float


def calibration(correct: Sequence[bool], scores: Sequence[float], bins: int = 10) -> tuple[float, list[Bin]]:
    """Return the expected calibration error of sigmoid(score), and its equally wide bins that hold a candidate.

    The error is the mean over candidates of |share correct - mean probability| of their bin (Guo et al. 2017).
    """
    members: dict[int, list[tuple[float, bool]]] = {}
    for right, score in zip(correct, scores, strict=True):
        probability = sigmoid(score)
        members.setdefault(min(int(probability * bins), bins - 1), []).append((probability, bool(right)))
    table = [
        Bin((i + 0.5) / bins, len(held), sum(right for _, right in held), sum(p for p, _ in held) / len(held))
        for i, held in sorted(members.items())
    ]
    error = sum(abs(b.correct - b.size * b.probability) for b in table) / max(len(correct), 1)
    return error, table


def _vote(answers: Sequence[Any], weights: Sequence[float]) -> Any:
    votes: dict[Any, float] = {}
    spoken: dict[Any, Any] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if _is_number(answer):
            ballot = round(answer, DECIMALS)
            votes[ballot] = votes.get(ballot, 0.0) + weight
            spoken.setdefault(ballot, answer)
    return spoken[max(votes, key=votes.__getitem__)] if votes else None


def _is_number(answer: Any) -> bool:
    # Rationals may be too large for isfinite, which goes through a float.
    real = isinstance(answer, Real) and not isinstance(answer, bool)
    return real and (isinstance(answer, Rational) or math.isfinite(answer))


def _check_subset(samples: int, k: int) -> None:
    if not 1 <= k <= samples:
        raise ConfigError(f"k must lie between 1 and the number of samples {samples}, got {k}")
