"""What choosing among candidates is worth: rules side by side over the number of candidates, and how true scores are.

selection([Judged(answers=[9, 8, 9], right=[True, False, True], scores=[2.0, -1.0, 1.5]), ...]).metrics
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lm.candidates import auroc, best_at_k, calibration, pass_at_k, vote_at_k
from lm.evaluate import bootstrap, rate
from lm.types import Evaluation, Rate


class Judged(NamedTuple):
    """The candidates of a question with a verifier's scores (logits); `greedy` is whether greedy decoding was right."""

    answers: Sequence[Any]  # None where a program gave no number
    right: Sequence[bool]
    scores: Sequence[float]
    greedy: bool | None = None


# The chance that a rule picks a right one of k candidates of a question.
RULES: Mapping[str, Callable[[Judged, int], float]] = MappingProxyType(
    {
        "random": lambda q, k: sum(q.right) / len(q.right),
        "majority": lambda q, k: vote_at_k(q.answers, q.right, k),
        "weighted_vote": lambda q, k: vote_at_k(q.answers, q.right, k, q.scores),
        "verifier": lambda q, k: best_at_k(q.right, q.scores, k),
        "oracle": lambda q, k: pass_at_k(len(q.right), sum(q.right), k),
    }
)


def selection(questions: Sequence[Judged]) -> Evaluation:
    """Return the accuracy of every rule with all candidates, gains, AUROC and calibration error; slices by count.

    Intervals are bootstraps over questions, except that the shares right in the bins of probability are Wilson's.
    The `auroc` is over all candidates; `auroc_within` the mean over the questions that have right and wrong ones.
    """
    samples = min(len(question.right) for question in questions)
    table = {
        count: {name: np.array([rule(q, count) for q in questions]) for name, rule in RULES.items()}
        for count in counts(samples)
    }
    slices = {str(count): {name: mean(values_Q) for name, values_Q in rows.items()} for count, rows in table.items()}
    last = table[samples]
    metrics = {"verifier": slices[str(samples)]["verifier"], **slices[str(samples)]}  # the main figure first
    compared = {name: last[name] for name in ("random", "majority")}
    if questions[0].greedy is not None:
        compared["greedy"] = np.array([bool(q.greedy) for q in questions], float)
        metrics["greedy"] = mean(compared["greedy"])
    metrics |= {f"gain_over_{name}": mean(last["verifier"] - values_Q) for name, values_Q in compared.items()}
    mixed = [q for q in questions if 0 < sum(q.right) < len(q.right)]
    metrics["auroc"] = bootstrap(lambda rows: auroc(*_pooled(questions, rows)), len(questions))
    metrics["auroc_within"] = mean(np.array([auroc(q.right, q.scores) for q in mixed] or [0.5]))
    metrics["calibration_error"] = bootstrap(lambda rows: calibration(*_pooled(questions, rows))[0], len(questions))
    return Evaluation(metrics, {"candidates": slices, "probability": reliability(questions)}, [])


def best(questions: Sequence[Judged]) -> Rate:
    """Return the accuracy of the best score among all candidates."""
    return mean(np.array([RULES["verifier"](question, len(question.right)) for question in questions]))


def counts(samples: int) -> list[int]:
    """Return 1, 2, 4, ... and the number of samples itself."""
    return sorted({min(2**i, samples) for i in range(samples.bit_length() + 1)})


def mean(values_Q: np.ndarray) -> Rate:
    """Return the mean over questions with its bootstrap interval."""
    return bootstrap(lambda rows: float(values_Q[rows].mean()), len(values_Q))


def reliability(questions: Sequence[Judged]) -> dict[str, dict[str, Rate]]:
    """Return for every bin of the predicted probability the share of right candidates, and the mean prediction."""
    _, bins = calibration(*_pooled(questions, range(len(questions))))
    return {
        f"{b.middle:g}": {"right": rate(b.correct, b.size), "predicted": Rate(*[b.probability] * 3, b.size)}
        for b in bins
    }


def _pooled(questions: Sequence[Judged], rows: Sequence[int]) -> tuple[list[bool], list[float]]:
    chosen = [questions[i] for i in rows]
    return list(chain.from_iterable(q.right for q in chosen)), list(chain.from_iterable(q.scores for q in chosen))
