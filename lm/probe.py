"""Linear probes: what can be read off activations by a linear map, and what such a map reads off nothing.

found = linear_probe(features_MD, labels_M, key)
found.accuracy, found.shuffled, found.majority
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm.strict import ConfigError
from lm.types import Array, Key


class Probe(NamedTuple):
    """Accuracy on held-out rows: of the probe, of one trained on shuffled labels, of the most frequent label."""

    accuracy: float
    shuffled: float
    majority: float


def linear_probe(features_MD: Array, labels_M: Array, key: Key, held_out: float = 0.3, ridge: float = 1e-3) -> Probe:
    """Fit labels 0..C-1 by ridge regression on standardised features, and grade it on rows that it has not seen.

    The control on shuffled labels says what the probe learns by heart (Hewitt and Liang 2019). `ridge` is a share of
    the number of rows. Rows of one sequence are alike: hold out whole sequences by giving one row each.
    """
    rows = len(labels_M)
    kept = rows - int(held_out * rows)
    if not 0 < held_out < 1 or not 1 < kept < rows:
        raise ConfigError(f"held_out {held_out} of {rows} rows leaves nothing to fit or nothing to grade")
    classes = int(labels_M.max()) + 1
    key_rows, key_labels = jax.random.split(key)
    order_M = jax.random.permutation(key_rows, rows)
    features, labels = jnp.asarray(features_MD, jnp.float32)[order_M], jnp.asarray(labels_M)[order_M]
    fitted_MD = features[:kept]
    mean_1D, spread_1D = (part(fitted_MD, axis=0, keepdims=True) for part in (jnp.mean, jnp.std))
    x_ME = jnp.pad((features - mean_1D) / (spread_1D + 1e-6), ((0, 0), (0, 1)), constant_values=1.0)

    def grade(fitted: Array) -> float:
        gram_EE = x_ME[:kept].T @ x_ME[:kept] + ridge * kept * jnp.eye(x_ME.shape[1])
        weights_EC = jnp.linalg.solve(gram_EE, x_ME[:kept].T @ jax.nn.one_hot(fitted, classes))
        return float(jnp.mean(jnp.argmax(x_ME[kept:] @ weights_EC, axis=1) == labels[kept:]))

    frequent = jnp.argmax(jnp.bincount(labels[:kept], length=classes))
    shuffled = grade(jax.random.permutation(key_labels, labels[:kept]))
    return Probe(grade(labels[:kept]), shuffled, float(jnp.mean(labels[kept:] == frequent)))
