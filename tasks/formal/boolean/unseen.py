"""Boolean functions learned on a part of the cube: what a network says of the rest (Abbe et al. 2023).

Source: arXiv 2301.13105.

A function of n signs is a sum of monomials, its Fourier expansion. Many functions agree on the part that was seen; the
one of minimum degree has the least weight on monomials of degree n, among those the least on degree n - 1, and so on.
With `most` set, only points with few minus signs are seen: of the full parity that is a question of length.

    >>> task = Unseen(target="product", bits=6)
    >>> example = task.sample(jax.random.key(1), 6)
    >>> print(task.render(example), "->", task.spell(example.targets), float(example.info["values"][0]))
    - + - + + - -> 0 -1.0
    >>> learned = minimum_degree(task.values(), task.seen())
    >>> [int(round(c)) for c in fourier(learned)[:4]]  # of 1, x0, x1, x0 x1
    [-1, 1, 1, 0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.strict import ConfigError, require_choice
from lm.types import Array, Example, Key
from tasks.task import Task


class Target(NamedTuple):
    """A function as {monomial: coefficient}, and the signs of which not all may be -1 (or must multiply to 1)."""

    terms: Mapping[tuple[int, ...], float]
    hidden: tuple[int, ...]
    by_product: bool = False  # seen where the product of `hidden` is 1; else hidden where all of them are -1


def targets(bits: int) -> dict[str, Target]:
    """Return the paper's functions of so many signs by name, each with the part of the cube that is not seen.

    Of the full parity nothing is hidden but by the number of minus signs, where the task limits it.
    """
    triples = {tuple(sorted((i, (i + 1) % bits, (i + 2) % bits))): 1.0 for i in range(bits)}
    return {
        "triangle": Target({(0, 1): 1.0, (1, 2): -1.25, (0, 2): 1.5}, (0, 1, 2), by_product=True),
        "product": Target({(0, 1): 1.0}, (0, 1)),
        "triples": Target(triples, (0, 1, 2)),
        "majority": Target({(0,): 0.5, (1,): 0.5, (2,): 0.5, (0, 1, 2): -0.5}, (0, 1)),
        "parity": Target({tuple(range(bits)): 1.0}, (), by_product=True),
    }


def signs(bits: int) -> np.ndarray:
    """Return the whole cube, [2^bits, bits]: coordinate i of point number p is -1 where bit i of p is 1."""
    points = np.arange(2**bits)[:, None] >> np.arange(bits)[None]
    return 1 - 2 * (points & 1)


def fourier(values_X: np.ndarray) -> np.ndarray:
    """Return the coefficient of every monomial, [2^n]: number m has the product of the signs at the bits of m.

    The fast Walsh-Hadamard transform: n additions a point in place of 2^n.
    """
    values = np.array(values_X, np.float64)
    size, half = len(values), 1
    if size & (size - 1):
        raise ValueError(f"a function on a cube has a power of two of values, got {size}")
    while half < size:
        pairs = values.reshape(-1, 2, half)
        values = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(size)
        half *= 2
    return values / size


def degrees(bits: int) -> np.ndarray:
    """Return the degree of every monomial, [2^bits]; of a point it is the number of minus signs."""
    return ((np.arange(2**bits)[:, None] >> np.arange(bits)[None]) & 1).sum(axis=1)


def profile(coefficients_M: np.ndarray) -> np.ndarray:
    """Return the weight (sum of squares) on each degree, from the highest down to 0."""
    bits = len(coefficients_M).bit_length() - 1
    return np.bincount(degrees(bits), np.square(coefficients_M), bits + 1)[::-1]


def minimum_degree(values_X: np.ndarray, seen_X: np.ndarray) -> np.ndarray:
    """Return the interpolator of minimum degree of the seen values, on the whole cube, [2^n].

    Degree by degree from the top, the weight there is made least over the unseen values that are still free: a chain
    of least-squares problems, each in the null space of those before.
    """
    bits, unseen = len(values_X).bit_length() - 1, np.flatnonzero(~seen_X)
    known_M = fourier(np.where(seen_X, values_X, 0.0))
    free_MU = np.stack([fourier(np.arange(len(values_X)) == point) for point in unseen], axis=1)
    degree_M = degrees(bits)
    chosen_U, basis_UK = np.zeros(len(unseen)), np.eye(len(unseen))
    for degree in range(bits, -1, -1):
        rows = degree_M == degree
        reach = free_MU[rows] @ basis_UK
        short = -(known_M[rows] + free_MU[rows] @ chosen_U)
        left, sizes, right = np.linalg.svd(reach, full_matrices=True)
        rank = int(np.sum(sizes > 1e-9))
        chosen_U = chosen_U + basis_UK @ (right[:rank].T @ ((left[:, :rank].T @ short) / sizes[:rank]))
        basis_UK = basis_UK @ right[rank:].T
        if basis_UK.shape[1] == 0:
            break
    found_X = np.where(seen_X, values_X, 0.0)
    found_X[unseen] = chosen_U
    return found_X


@dataclass(frozen=True)
class Unseen(Task):
    """Points of the cube of `bits` signs that training may see, with the value of the target; tests are the others.

    Form `point` asks one number of a whole point, `text` asks it at the last of the signs. Points with more than
    `most` minus signs are hidden too. Where nothing is hidden tests are of all points.
    """

    name: ClassVar[str] = "unseen"
    size_name: ClassVar[str] = "bits"

    target: str = "product"
    bits: int = 10
    form: str = "point"  # point, text
    most: int | None = None  # minus signs of a point that is seen; None: any number

    def __post_init__(self):
        require_choice("task.form", self.form, ("point", "text"))
        if not 4 <= self.bits <= 18:
            raise ConfigError(f"task.bits must be from 4 to 18, got {self.bits}")
        require_choice("task.target", self.target, tuple(targets(self.bits)))
        if self.most is not None and not 0 <= self.most <= self.bits:
            raise ConfigError(f"task.most must be from 0 to task.bits {self.bits}, got {self.most}")

    @property
    def vocabulary(self) -> int:
        return 2

    @property
    def max_length(self) -> int:
        return self.bits

    @property
    def train_sizes(self) -> tuple[int, int]:
        return self.bits, self.bits

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return (self.bits,)

    def values(self) -> np.ndarray:
        """Return the target on the whole cube, [2^bits]."""
        cube = signs(self.bits)
        terms = targets(self.bits)[self.target].terms
        return sum(weight * cube[:, list(term)].prod(axis=1) for term, weight in terms.items())

    def seen(self) -> np.ndarray:
        """Return which points of the cube training may see, as booleans [2^bits]."""
        cube, target = signs(self.bits), targets(self.bits)[self.target]
        hidden = cube[:, list(target.hidden)]
        shown = hidden.prod(axis=1) == 1 if target.by_product else (hidden == 1).any(axis=1)
        return shown & (degrees(self.bits) <= (self.bits if self.most is None else self.most))

    def sample(self, key: Key, size: Array) -> Example:
        return self._draw(key, np.flatnonzero(self.seen()))

    def sample_test(self, key: Key, size: Array) -> Example:
        return self._draw(key, np.flatnonzero(~self.seen() | self.seen().all()))

    def _draw(self, key: Key, points: np.ndarray) -> Example:
        return self.write(jnp.asarray(points)[jax.random.randint(key, (), 0, len(points))])

    def write(self, point: Array) -> Example:
        """Write point number `point` of the cube; the target is the sign of its value, `info` has the value."""
        inputs_L = (point >> jnp.arange(self.bits)) & 1
        value = jnp.asarray(self.values(), jnp.float32)[point]
        asked_L = jnp.arange(self.bits) == self.bits - 1 if self.form == "text" else jnp.ones(1, bool)
        return Example(
            inputs=inputs_L.astype(jnp.int32),
            targets=jnp.where(asked_L, value > 0, False).astype(jnp.int32),
            weights=asked_L.astype(jnp.float32),
            positions=jnp.arange(self.bits),
            info={"values": jnp.where(asked_L, value, 0.0)},
        )

    def render(self, example: Example) -> str:
        return " ".join("+-"[bit] for bit in np.asarray(example.inputs))

    def spell(self, tokens: Sequence[int]) -> str:
        return " ".join(str(int(token)) for token in tokens)
