"""How well scores tell two kinds apart: area under the ROC curve and F1."""

from __future__ import annotations

import numpy as np


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return how often a positive scores above a negative, ties counting half; NaN where one kind is absent."""
    scores, positive = np.asarray(scores, float), np.asarray(positive, bool)
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    yes, no = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - yes * (yes + 1) / 2) / (yes * no)) if yes and no else float("nan")


def f1(predicted: np.ndarray, positive: np.ndarray) -> float:
    """Return the harmonic mean of precision and recall; 0 where nothing is right."""
    predicted, positive = np.asarray(predicted, bool), np.asarray(positive, bool)
    both = np.count_nonzero(predicted & positive)
    return float(2 * both / (np.count_nonzero(predicted) + np.count_nonzero(positive))) if both else 0.0
