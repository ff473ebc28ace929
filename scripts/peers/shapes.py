"""The jobs that programs are compared on, in any environment: three of training, one of sampling."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Shape(NamedTuple):
    """A decoder, its batch, and the tokens that it predicts: a walk around a circle, 0 to 3 places on at each step."""

    depth: int
    width: int
    heads: int
    length: int
    batch: int
    vocabulary: int
    steps: int  # in one dispatch of ours; enough work that starting it costs nothing


WALK = 4  # ways on from a token: the loss falls from ln vocabulary to ln 4
LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.95), 0.1, 1.0
TINY = Shape(depth=2, width=128, heads=4, length=256, batch=32, vocabulary=64, steps=8)
SMALL = Shape(depth=6, width=384, heads=6, length=256, batch=12, vocabulary=256, steps=2)
SHAPES: Mapping[str, Shape] = MappingProxyType(
    {"tiny": TINY, "small256": SMALL, "small50k": SMALL._replace(vocabulary=50304, steps=1)}
)


class Sampling(NamedTuple):
    """A decoder with tied embeddings, and a batch of prompts that it continues at temperature 1 without an end."""

    depth: int = 6
    width: int = 384
    heads: int = 6
    vocabulary: int = 256
    batch: int = 64
    prompt: int = 64
    new: int = 128

    @property
    def flops(self) -> int:
        """The operations of all products with weights: those of the prompts once, then those of each new token."""
        weights = 12 * self.depth * self.width**2
        read = self.prompt + self.new - 1  # the last token is not read
        return 2 * self.batch * (weights * read + self.width * self.vocabulary * self.new)

    @property
    def cached(self) -> int:
        """The numbers that are read from caches of keys and values: at each new token, all that came before."""
        before = sum(range(self.prompt, self.prompt + self.new - 1))
        return 2 * self.depth * self.width * self.batch * before


SAMPLING = Sampling()
