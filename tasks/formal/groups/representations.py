"""Real irreducible representations of a finite group, and how much of a network's scores they explain.

Chughtai et al. 2023 (arXiv 2302.03025): scores of c after a, b become sums of characters tr(rho(a) rho(b) rho(1/c)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.formal.groups.tables import Group

KEY = 0.005  # likeness to the scores above which a representation counts as learned


class Representation(NamedTuple):
    """Orthogonal matrices [N, d, d], one an element, under a name such as "3.1": the first of dimension 3."""

    name: str
    matrices: np.ndarray

    @property
    def character(self) -> np.ndarray:
        """The trace of every element, [N]."""
        return np.trace(self.matrices, axis1=1, axis2=2)


def irreducibles(group: Group) -> list[Representation]:
    """Return all irreducible representations over the real numbers, small dimensions first; the trivial one is first.

    A random symmetric matrix that commutes with multiplication from the left has irreducible eigenspaces. Those of
    dimension d are ordered by their characters, so that those of a cyclic group go by frequency.
    """
    elements = len(group.inverse)
    weights = np.random.default_rng(0).normal(size=elements)
    weights += weights[group.inverse]
    values, vectors = np.linalg.eigh(weights[group.product[group.inverse]])
    starts = [0, *(np.flatnonzero(np.diff(values) > 1e-6) + 1), elements]
    found: dict[tuple[float, ...], np.ndarray] = {}
    for start, stop in zip(starts, starts[1:], strict=False):
        basis_Nd = vectors[:, start:stop]
        matrices = np.einsum("xi,gxj->gij", basis_Nd, basis_Nd[group.product[group.inverse]], optimize=True)
        order = (stop - start, *(-np.trace(matrices, axis1=1, axis2=2)).round(6))
        found.setdefault(order, matrices)
    named, numbers = [], dict.fromkeys(range(elements + 1), 0)
    for order in sorted(found):
        dimension = int(order[0])
        numbers[dimension] += 1
        named.append(Representation(f"{dimension}.{numbers[dimension]}", found[order]))
    return named


def character_tensor(group: Group, representation: Representation) -> np.ndarray:
    """Return chi[a, b, c] = tr rho(a b / c)."""
    quotients = group.product[:, group.inverse]
    return representation.character[quotients[group.product]]


def centred(scores: np.ndarray) -> np.ndarray:
    """Return scores [a, b, c] less their mean over c."""
    return scores - scores.mean(axis=2, keepdims=True)


def likeness(scores: np.ndarray, tensor: np.ndarray) -> float:
    """Return the cosine of scores, centred over c, with a tensor of the same shape."""
    scores = centred(scores)
    return float(np.sum(scores * tensor) / np.sqrt(np.sum(scores**2) * np.sum(tensor**2)))


def projected(scores: np.ndarray, tensors: Sequence[np.ndarray]) -> np.ndarray:
    """Return the part of centred scores that lies along orthogonal tensors."""
    scores = centred(scores)
    return sum((np.sum(scores * t) / np.sum(t**2) * t for t in tensors), np.zeros_like(scores))


def loss(scores: np.ndarray, rows: np.ndarray) -> float:
    """Return the mean cross-entropy in nats of scores [a, b, c] on rows (a, b, result)."""
    a, b, result = rows.T
    picked = scores[a, b]
    highest = picked.max(axis=1)
    total = np.log(np.sum(np.exp(picked - highest[:, None]), axis=1)) + highest
    return float(np.mean(total - scores[a, b, result]))


def span_share(weights_NE: np.ndarray, representations: Sequence[Representation]) -> float:
    """Return the share of the variance of weights over the elements that lies in the span of matrix entries."""
    weights_NE = weights_NE - weights_NE.mean(axis=0)
    entries = np.concatenate([r.matrices.reshape(len(weights_NE), -1) for r in representations], axis=1)
    left, values, _ = np.linalg.svd(entries, full_matrices=False)
    basis = left[:, values > 1e-8 * values[0]]
    return float(np.sum((basis.T @ weights_NE) ** 2) / np.sum(weights_NE**2))


class Anatomy(NamedTuple):
    """What representations explain of a network, and the losses of its scores with them alone and without them."""

    shares: dict[str, float]  # share of the variance of the scores, by representation
    restricted_loss: float
    excluded_loss: float
    span: float  # least share of embeddings and head in the span of the learned ones
    learned: int

    @property
    def explained(self) -> float:
        """The share of all representations together."""
        return sum(self.shares.values())


def dissect(
    scores: np.ndarray,
    weights: Sequence[np.ndarray],
    rows: np.ndarray,
    representations: Sequence[Representation],
    tensors: Sequence[np.ndarray],
) -> Anatomy:
    """Take scores [a, b, c] and weights, each [N, E], apart; losses are those on `rows`.

    Neither `representations` nor their `tensors` hold the trivial one, which says nothing of c.
    """
    alike = [likeness(scores, tensor) for tensor in tensors]
    chosen = [i for i, value in enumerate(alike) if value > KEY]
    part = projected(scores, [tensors[i] for i in chosen])
    learned = [representations[i] for i in chosen]
    return Anatomy(
        shares={r.name: value**2 for r, value in zip(representations, alike, strict=True)},
        restricted_loss=loss(part, rows),
        excluded_loss=loss(centred(scores) - part, rows),
        span=min(span_share(w, learned) for w in weights) if learned else 0.0,
        learned=len(learned),
    )
