"""Keep test questions out of training text: the n-gram rule of TinyGSM (Liu et al. 2023) and Phi-4 (2024).

kept, collisions = remove_contaminated(rows, test_questions, text=lambda row: row["question"])
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from lm.strict import require_positive

T = TypeVar("T")

WORD = re.compile(r"[^\W\d_]+")


class Collision(NamedTuple):
    """Item `item` (by number) was removed: it shares `words` with test text `test` (by number)."""

    item: int
    test: int
    words: str


class Contamination:
    """Test texts by their runs of n words, to hold other texts against, one at a time.

    Words are runs of letters, in lower case: punctuation and digits do not count, so a copy with other numbers
    is still a copy. A text of fewer than n words counts as one gram: it collides with its whole equal only.
    """

    def __init__(self, tests: Iterable[str], n: int = 13):
        require_positive("n", n)
        self.n = n
        self._test_of: dict[str, int] = {}
        for number, test in enumerate(tests):
            for gram in _grams(test, n):
                self._test_of.setdefault(gram, number)

    def find(self, text: str) -> tuple[int, str] | None:
        """Return the test, by number, that a text shares n words in a row with, and these words; None without one."""
        shared = next((gram for gram in _grams(text, self.n) if gram in self._test_of), None)
        return None if shared is None else (self._test_of[shared], shared)


def remove_contaminated(
    items: Iterable[T], tests: Iterable[str], *, text: Callable[[T], str] | None = None, n: int = 13
) -> tuple[list[T], list[Collision]]:
    """Return the items that share no n words in a row with any test text, and what was removed and why.

    `text` takes the text out of an item; without it the items are texts.
    """
    contamination = Contamination(tests, n)
    kept, collisions = [], []
    for number, item in enumerate(items):
        content: Any = item if text is None else text(item)
        shared = contamination.find(content)
        if shared is None:
            kept.append(item)
        else:
            collisions.append(Collision(number, *shared))
    return kept, collisions


def _grams(text: str, n: int) -> Iterator[str]:
    words = WORD.findall(text.casefold())
    if words:
        yield from (" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1)))
