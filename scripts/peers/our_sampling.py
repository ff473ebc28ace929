"""Our side: `lm.decode.sample`.

Settings: precision (of the operands of matrix products, and so of the cache).
"""

from __future__ import annotations

import time

import jax
import numpy as np

from lm.config import TransformerConfig
from lm.decode import sample
from lm.models import build
from scripts.peers.serve import serve, settings, versions
from scripts.peers.shapes import SAMPLING


def main(precision: str) -> None:
    """Build the model and serve batches."""
    s = SAMPLING
    net = build(
        TransformerConfig(vocabulary=s.vocabulary, depth=s.depth, width=s.width, heads=s.heads, products=precision)
    )
    params = jax.jit(net.init)(jax.random.key(0))
    prompts = np.random.default_rng(0).integers(0, s.vocabulary, (s.batch, s.prompt)).tolist()
    taken: list[float] = []

    def step() -> int:
        begun, key = time.perf_counter(), jax.random.key(len(taken))
        options = {"max_new": s.new, "stop": s.vocabulary, "temperature": 1.0, "batch_size": s.batch}
        found = sample(net, params, prompts, key=key, **options)
        assert found.lengths.sum() == s.batch * s.new
        taken.append(time.perf_counter() - begun)
        return 1

    serve(step, lambda: {"first": taken[0], "versions": versions("jax", "flax")})


if __name__ == "__main__":
    main(**settings())
