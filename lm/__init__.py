"""Cambium: small models that learn to reason, in JAX and Flax. Rooms load when they are first named."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

ROOMS = (
    "types", "config", "strict", "mesh", "models", "transforms", "losses", "optim", "step", "train", "sweep",
    "evaluate", "decode", "data", "checkpoint", "report",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ROOMS:
        return import_module(f"lm.{name}")
    raise AttributeError(f"module 'lm' has no attribute {name!r} (rooms: {', '.join(ROOMS)})")


def __dir__() -> list[str]:
    return [*ROOMS, "__version__"]
