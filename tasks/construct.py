"""Transformers with weights by hand: the proof of a theorem as parameters of this library's own model.

No norm may act, no bias is there, scores are not scaled: what is written is what is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import Learned, NoPositions, TransformerConfig
from lm.types import Params

# With an epsilon far above any mean square a norm divides by its root, which the scale undoes.
EPSILON = 1e12


class Layer(NamedTuple):
    """Kernels of one block: query, key, value [D, H, h], output [H, h, D], up [D, F], down [F, D], gate [D, F].

    Without a gate the feed-forward is down relu(up x), with one it is down (relu(gate x) * up x), in all layers alike.
    """

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    output: np.ndarray
    up: np.ndarray
    down: np.ndarray
    gate: np.ndarray | None = None


def hand_config(embedding: np.ndarray, positions: np.ndarray | None, layers: Sequence[Layer]) -> TransformerConfig:
    """Return the configuration that the shapes imply; without a table of positions there is no such signal."""
    _, heads, head_width = layers[0].query.shape
    return TransformerConfig(
        vocabulary=embedding.shape[0],
        depth=len(layers),
        width=embedding.shape[1],
        heads=heads,
        head_width=head_width,
        feedforward=layers[0].up.shape[1],
        activation="relu" if layers[0].gate is None else "reglu",
        norm_epsilon=EPSILON,
        tied=False,
        positions=NoPositions() if positions is None else Learned(rows=positions.shape[0]),
        dtype="float32",
        initialisation="t5",  # the one whose scores are not divided by the root of the head width
    )


def hand_params(
    embedding: np.ndarray, positions: np.ndarray | None, layers: Sequence[Layer], head: np.ndarray
) -> Params:
    """Return the parameters of the model of `hand_config`: tables [V, D] and [rows, D], blocks, head [D, V]."""
    width = embedding.shape[1]
    no_norm = {"scale": np.full(width, EPSILON**0.5)}
    blocks = [
        {
            "attention_norm": no_norm,
            "attention": {
                "query": {"kernel": layer.query.reshape(width, -1)},
                "key": {"kernel": layer.key.reshape(width, -1)},
                "value": {"kernel": layer.value.reshape(width, -1)},
                "output": {"kernel": layer.output.reshape(-1, width)},
            },
            "feedforward_norm": no_norm,
            "feedforward": {
                name: {"kernel": getattr(layer, name)}
                for name in ("gate", "up", "down")
                if getattr(layer, name) is not None
            },
        }
        for layer in layers
    ]
    params = {
        "embedding": {"table": embedding},
        **({} if positions is None else {"positions": {"table": positions}}),
        "blocks": jax.tree.map(lambda *kernels: np.stack(kernels), *blocks),
        "final_norm": no_norm,
        "head": {"kernel": head},
    }
    return jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), params)
