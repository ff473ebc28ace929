"""Schemes of positions by name, each as it suits texts of up to so many tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from lm.config import ALiBi, Learned, NoPositions, Positions, Randomised, RelativeBias, Rotary, Sinusoidal

POSITIONS: Mapping[str, Callable[[int], Positions]] = MappingProxyType(
    {
        "no_positions": lambda length: NoPositions(),
        "learned": lambda length: Learned(rows=length),
        "sinusoidal": lambda length: Sinusoidal(),
        "rotary": lambda length: Rotary(),
        "alibi": lambda length: ALiBi(),
        "relative": lambda length: RelativeBias(),
        "randomised": lambda length: Randomised(longest=2 * length),
    }
)
