"""Near duplicates by MinHash and banding (Broder 1997; Leskovec et al., Mining of Massive Datasets, chapter 3).

kept, duplicates = remove_near_duplicates(documents, text=lambda d: d["text"])

Written here in NumPy: some ten thousand documents take seconds, and a package would bring hashes of its own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

import numpy as np

from lm.strict import ConfigError, require_positive

T = TypeVar("T")

WORD = re.compile(r"\w+")
PRIME = np.uint64(2**31 - 1)  # products of two residues fit in 64 bits


class Duplicate(NamedTuple):
    """Item `item` (by number) was removed: it is like item `of`, which was kept, with this Jaccard similarity."""

    item: int
    of: int
    similarity: float


def shingles(text: str, n: int = 5) -> np.ndarray:
    """Return the hashes of the distinct runs of n words, case and punctuation aside, sorted; a shorter text is one."""
    words = WORD.findall(text.casefold())
    grams = (" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1)))
    return np.unique(np.fromiter((crc32(gram.encode()) for gram in grams), np.uint64))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Return intersection over union of two sets given as sorted arrays without repetition."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)


def signature(shingles: np.ndarray, permutations: int = 128, seed: int = 0) -> np.ndarray:
    """Return the smallest hash under each permutation, [permutations]: two agree in a share near their Jaccard."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(1, int(PRIME), size=(2, permutations, 1), dtype=np.uint64)
    return ((a * (shingles % PRIME) + b) % PRIME).min(axis=1)


def remove_near_duplicates(
    items: Iterable[T],
    *,
    text: Callable[[T], str] | None = None,
    threshold: float = 0.8,
    n: int = 5,
    bands: int = 32,
    rows: int = 4,
) -> tuple[list[T], list[Duplicate]]:
    """Return the items that are not like an earlier kept one, and what was removed and why.

    Two items that share all of `rows` values of a signature in one of the `bands` are compared exactly, and the
    later goes where the Jaccard similarity of their n-word shingles exceeds the threshold. A pair of similarity s
    is compared with probability 1 - (1 - s^rows)^bands: above 0.9999999 for 0.8 and the defaults.
    """
    if not 0 < threshold < 1:
        raise ConfigError(f"threshold must lie between 0 and 1, got {threshold}")
    for name, value in (("n", n), ("bands", bands), ("rows", rows)):
        require_positive(name, value)
    seen: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    sets: dict[int, np.ndarray] = {}
    kept, duplicates = [], []
    for number, item in enumerate(items):
        content: Any = item if text is None else text(item)
        grams = shingles(content, n)
        parts = signature(grams, bands * rows).reshape(bands, rows)
        places = [(band, part.tobytes()) for band, part in enumerate(parts)]
        like = _most_like(grams, sets, {earlier for place in places for earlier in seen[place]})
        if like is not None and like[1] > threshold:
            duplicates.append(Duplicate(number, *like))
            continue
        kept.append(item)
        sets[number] = grams
        for place in places:
            seen[place].append(number)
    return kept, duplicates


def _most_like(grams: np.ndarray, sets: dict[int, np.ndarray], earlier: set[int]) -> tuple[int, float] | None:
    found: Sequence[tuple[int, float]] = [(number, jaccard(grams, sets[number])) for number in sorted(earlier)]
    return max(found, key=lambda pair: pair[1], default=None)
