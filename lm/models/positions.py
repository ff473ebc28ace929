"""Position schemes as objects: what is added to the embedding, what rotates queries and keys, what biases scores.

scheme = make_scheme(Rotary(), width=64, heads=4, head_width=16)
cos_BLR, sin_BLR = scheme.rotation(positions_BL, slots=512)

Positions are data: ids that need not be consecutive, nor in order. A scheme holds no arrays; its learned tables
are parameters of the model and come back as an argument. Letters: R half of the rotated width, Q new positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lm.config import (
    ALiBi,
    Learned,
    Llama3Scaling,
    LongRope,
    NoPositions,
    Positions,
    Randomised,
    RelativeBias,
    Rotary,
    Sinusoidal,
)
from lm.strict import ConfigError, require_positive
from lm.types import Array, Key

Tables = Any  # the learned tables of a scheme by name: {"table": Array}


@dataclass(frozen=True)
class Scheme:
    """No positional signal: every hook is silent. The other schemes speak through one hook each.

    `many_axes` says that positions may be [B, L, A], `biased` that scores have a bias.
    """

    config: Any
    width: int
    heads: int
    head_width: int

    many_axes = False
    biased = False

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the learned tables by name."""
        return {}

    def redraw(self, positions: Array, slots: int, key: Key | None) -> Array:
        """Return the positions to use where data of `slots` slots carries `positions`."""
        return positions

    def embedding(self, tables: Tables, positions: Array) -> Array | None:
        """Return what is added to the token embedding, [B, L, D], or None."""
        return None

    def rotation(self, positions_BL: Array, slots: int) -> tuple[Array, Array] | None:
        """Return the cosines and sines [B, L, R] that rotate R pairs of each head in data of `slots` slots, or None."""
        return None

    def bias(self, tables: Tables, queries_BQ: Array, keys_BS: Array) -> Array | None:
        """Return what is added to the scores, [B, H, Q, S] in float32, or None."""
        return None


@dataclass(frozen=True)
class LearnedScheme(Scheme):
    """A learned row a position id; several axes are looked up and added."""

    config: Learned
    many_axes = True

    def __post_init__(self) -> None:
        require_positive("positions.rows", self.config.rows)
        require_positive("positions.axes", self.config.axes)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        rows = (self.config.rows, self.width)
        return {"table": (self.config.axes, *rows) if self.config.separate else rows}

    def embedding(self, tables: Tables, positions: Array) -> Array:
        table = tables["table"]
        positions_BLA = positions[..., None] if positions.ndim == 2 else positions
        if not self.config.separate:
            return jnp.take(table, positions_BLA, axis=0).sum(axis=-2)
        if positions_BLA.shape[-1] != self.config.axes:
            raise ConfigError(f"positions.axes is {self.config.axes}, the data has {positions_BLA.shape[-1]}")
        return jax.vmap(lambda rows, ids: jnp.take(rows, ids, axis=0), (0, -1))(table, positions_BLA).sum(axis=0)


@dataclass(frozen=True)
class SinusoidalScheme(Scheme):
    """Fixed sines, then cosines, of geometrically spaced frequencies."""

    config: Sinusoidal

    def __post_init__(self) -> None:
        if self.width % 2:
            raise ConfigError(f"sinusoidal positions need an even model.width, got {self.width}")

    def embedding(self, tables: Tables, positions_BL: Array) -> Array:
        angles_BLR = _angles(positions_BL, _frequencies(self.width // 2, self.config.base))
        return jnp.concatenate([jnp.sin(angles_BLR), jnp.cos(angles_BLR)], axis=-1)


@dataclass(frozen=True)
class RotaryScheme(Scheme):
    """Rotation of the first `fraction` of each head by angles that grow with position."""

    config: Rotary

    def __post_init__(self) -> None:
        require_positive("positions.base", self.config.base)
        if not 0 < self.config.fraction <= 1:
            raise ConfigError(f"positions.fraction must lie in (0, 1], got {self.config.fraction}")
        rotated = self.config.fraction * self.head_width
        if rotated < 2 or (self.config.fraction == 1 and self.head_width % 2):
            raise ConfigError(f"rotary positions need an even number of rotated dimensions, got {rotated:g} of a head")
        _check_scaling(self.config.scaling, self.pairs)

    @property
    def pairs(self) -> int:
        """The pairs of dimensions of each head that are rotated."""
        return int(self.config.fraction * self.head_width) // 2

    def rotation(self, positions_BL: Array, slots: int) -> tuple[Array, Array]:
        frequencies_R, stretch = _frequencies(self.pairs, self.config.base), 1.0
        match self.config.scaling:
            case Llama3Scaling(factor, low, high, original):
                turns_R = original / (2 * math.pi) * frequencies_R
                kept_R = jnp.clip((turns_R - low) / (high - low), 0.0, 1.0)
                frequencies_R = frequencies_R * (kept_R + (1 - kept_R) / factor)
            case LongRope(short, long, original, longest):
                frequencies_R = frequencies_R / jnp.asarray(long if slots > original else short, jnp.float32)
                stretch = math.sqrt(1 + math.log(longest / original) / math.log(original))
        angles_BLR = _angles(positions_BL, frequencies_R)
        return stretch * jnp.cos(angles_BLR), stretch * jnp.sin(angles_BLR)


@dataclass(frozen=True)
class ALiBiScheme(Scheme):
    """A penalty on the distance with a fixed slope a head."""

    config: ALiBi
    biased = True

    def bias(self, tables: Tables, queries_BQ: Array, keys_BS: Array) -> Array:
        distance_BQS = jnp.abs(queries_BQ[:, :, None] - keys_BS[:, None, :]).astype(jnp.float32)
        return -jnp.asarray(alibi_slopes(self.heads))[None, :, None, None] * distance_BQS[:, None]


@dataclass(frozen=True)
class RelativeBiasScheme(Scheme):
    """A learned bias a head and bucket: one bucket a distance at first, then logarithmic ones up to `longest`."""

    config: RelativeBias
    biased = True

    def __post_init__(self) -> None:
        if not 2 <= self.config.buckets < 2 * self.config.longest:
            raise ConfigError(
                f"positions.buckets must lie between 2 and twice positions.longest, got {self.config.buckets}"
            )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"bias": (self.config.buckets, self.heads)}

    def bias(self, tables: Tables, queries_BQ: Array, keys_BS: Array) -> Array:
        distance_BQS = jnp.maximum(queries_BQ[:, :, None] - keys_BS[:, None, :], 0)
        exact = self.config.buckets // 2
        octaves_BQS = jnp.log(jnp.maximum(distance_BQS, 1) / exact) / math.log(self.config.longest / exact)
        far_BQS = exact + (octaves_BQS * (self.config.buckets - exact)).astype(jnp.int32)
        bucket_BQS = jnp.where(distance_BQS < exact, distance_BQS, jnp.minimum(far_BQS, self.config.buckets - 1))
        return jnp.moveaxis(jnp.take(tables["bias"].T, bucket_BQS, axis=1), 0, 1)


@dataclass(frozen=True)
class RandomisedScheme(Scheme):
    """Position p becomes the p-th smallest of a random subset of 0..longest-1, one draw a call (Ruoss et al. 2023).

    Without a key the draw depends on the number of slots alone, so that evaluation repeats itself and a cache
    of L slots agrees with a full pass over L tokens. Positions must lie below the number of slots.
    """

    config: Randomised

    def __post_init__(self) -> None:
        rows = getattr(self.config.inner, "rows", self.config.longest)
        if rows < self.config.longest:
            raise ConfigError(f"positions.inner.rows {rows} is less than positions.longest {self.config.longest}")

    @property
    def inner(self) -> Scheme:
        return make_scheme(self.config.inner, width=self.width, heads=self.heads, head_width=self.head_width)

    @property
    def biased(self) -> bool:  # type: ignore[override]
        return self.inner.biased

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self.inner.shapes()

    def redraw(self, positions_BL: Array, slots: int, key: Key | None) -> Array:
        if slots > self.config.longest:
            raise ConfigError(f"positions.longest {self.config.longest} is less than the {slots} slots of the data")
        key_draw = jax.random.key(0) if key is None else key
        drawn_L = jnp.sort(jax.random.permutation(key_draw, self.config.longest)[:slots])
        return drawn_L[positions_BL]

    def embedding(self, tables: Tables, positions_BL: Array) -> Array | None:
        return self.inner.embedding(tables, positions_BL)

    def rotation(self, positions_BL: Array, slots: int) -> tuple[Array, Array] | None:
        return self.inner.rotation(positions_BL, slots)

    def bias(self, tables: Tables, queries_BQ: Array, keys_BS: Array) -> Array | None:
        return self.inner.bias(tables, queries_BQ, keys_BS)


SCHEMES: dict[type, type[Scheme]] = {
    NoPositions: Scheme,
    Learned: LearnedScheme,
    Sinusoidal: SinusoidalScheme,
    Rotary: RotaryScheme,
    ALiBi: ALiBiScheme,
    RelativeBias: RelativeBiasScheme,
    Randomised: RandomisedScheme,
}


def make_scheme(config: Positions, *, width: int, heads: int, head_width: int) -> Scheme:
    """Return the scheme of a configuration for a model of this width with these heads."""
    if type(config) not in SCHEMES:
        names = ", ".join(cls.__name__ for cls in SCHEMES)
        raise ConfigError(f"model.positions must be one of {names}, got {config!r}")
    return SCHEMES[type(config)](config, width, heads, head_width)


def rotate(x_BLHh: Array, rotation: tuple[Array, Array] | None) -> Array:
    """Rotate pairs (i, i + R) of each head by the angles of `rotation`; dimensions beyond 2 R pass through."""
    if rotation is None:
        return x_BLHh
    cos, sin = (part_BLR[:, :, None].astype(x_BLHh.dtype) for part_BLR in rotation)
    half = cos.shape[-1]
    first, second, rest = x_BLHh[..., :half], x_BLHh[..., half : 2 * half], x_BLHh[..., 2 * half :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def alibi_slopes(heads: int) -> list[float]:
    """Return the slopes 2^(-8 i / heads); between powers of two, every other one of the next power's is added."""
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    return slopes + [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]


def _check_scaling(scaling: Llama3Scaling | LongRope | None, pairs: int) -> None:
    match scaling:
        case Llama3Scaling(factor, low, high, original):
            require_positive("positions.scaling.factor", factor)
            require_positive("positions.scaling.original", original)
            if not 0 < low < high:
                raise ConfigError(f"positions.scaling.low must lie between 0 and high, got {low} and {high}")
        case LongRope(short, long, original, longest):
            if not 1 < original <= longest:
                raise ConfigError(
                    f"positions.scaling.original must lie between 2 and longest {longest}, got {original}"
                )
            for name, divisors in (("short", short), ("long", long)):
                if len(divisors) != pairs or min(divisors) <= 0:
                    raise ConfigError(
                        f"positions.scaling.{name} must hold {pairs} positive numbers, one a rotated pair, "
                        f"got {len(divisors)} from {min(divisors, default=0)}"
                    )


def _frequencies(count: int, base: float) -> Array:
    return base ** (-jnp.arange(count, dtype=jnp.float32) / count)


def _angles(positions_BL: Array, frequencies_R: Array) -> Array:
    return positions_BL[..., None].astype(jnp.float32) * frequencies_R[None, None]
