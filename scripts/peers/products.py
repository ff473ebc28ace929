"""The matrix product of a machine by a library: what no step can exceed.

Settings: library (jax, torch), precision (float32; bfloat16: operands, and sums as the library offers them fastest).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scripts.peers.serve import cores, serve, settings

SIZE = 2048
FLOPS = 2 * SIZE**3


def by_jax(precision: str) -> Callable[[], Any]:
    """Return a product by XLA, of bfloat16 with sums in float32."""
    import jax
    import jax.numpy as jnp

    a, b = (jax.random.normal(jax.random.key(i), (SIZE, SIZE), precision) for i in range(2))
    product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    return lambda: product(a, b).block_until_ready()


def by_torch(precision: str) -> Callable[[], Any]:
    """Return a product by PyTorch, of bfloat16 into bfloat16."""
    import torch

    torch.set_num_threads(cores())
    a, b = (torch.randn(SIZE, SIZE).to(getattr(torch, precision)) for _ in range(2))
    return lambda: torch.mm(a, b)


def main(library: str, precision: str) -> None:
    """Serve products."""
    product = {"jax": by_jax, "torch": by_torch}[library](precision)

    def step() -> int:
        product()
        return 1

    serve(step, lambda: {"flops": FLOPS})


if __name__ == "__main__":
    main(**settings())
