"""Documents into windows of one length, without breaking a document that fits and without losing one.

inputs     a b c . | x y | 0        two documents, a b c . e and x y e (e ends), in a window of 7
targets    b c . e | y e | 0
positions  0 1 2 3 | 0 1 | 0
segments   1 1 1 1 | 2 2 | 0
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lm.strict import require_positive

FIELDS = {
    "inputs": np.int32,
    "targets": np.int32,
    "weights": np.float32,
    "positions": np.int32,
    "segments": np.int32,
}


class Document(NamedTuple):
    """Tokens to predict one after the other; `weights[i]` is the loss weight of predicting `tokens[i]`.

    The first token is given and its weight ignored.
    """

    tokens: Sequence[int]
    weights: Sequence[float]


def pack(documents: Iterable[Document], length: int, *, open_windows: int = 64) -> Iterator[dict[str, np.ndarray]]:
    """Yield windows of `FIELDS`, each array [length], that hold every document exactly once.

    A document of n tokens takes n - 1 places, all in one window; one with more than `length` places is cut
    into pieces that are packed like documents of their own, with positions from 0. Each piece goes into the
    fullest of at most `open_windows` open windows that still has room (best fit), so memory is bounded and the
    same documents give the same windows. Padding has segment 0, weight 0 and zeros elsewhere.
    Raises ValueError for a document without a prediction, or with other than one weight a token.
    """
    require_positive("length", length)
    windows: list[_Window] = []
    for number, document in enumerate(documents):
        for piece in _pieces(number, document, length):
            places = len(piece[0])
            window = min((w for w in windows if w.room >= places), key=lambda w: w.room, default=None)
            if window is None:
                if len(windows) == open_windows:
                    yield windows.pop(_fullest(windows)).arrays
                windows.append(window := _Window(length))
            window.add(*piece)
            if window.room == 0:
                windows.remove(window)
                yield window.arrays
    yield from (window.arrays for window in windows)


class _Window:
    def __init__(self, length: int):
        self.arrays = {name: np.zeros(length, dtype) for name, dtype in FIELDS.items()}
        self.room = length
        self.pieces = 0

    def add(self, inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> None:
        start = len(self.arrays["inputs"]) - self.room
        place = slice(start, start + len(inputs))
        self.room -= len(inputs)
        self.pieces += 1
        self.arrays["inputs"][place] = inputs
        self.arrays["targets"][place] = targets
        self.arrays["weights"][place] = weights
        self.arrays["positions"][place] = np.arange(len(inputs))
        self.arrays["segments"][place] = self.pieces


def _fullest(windows: list[_Window]) -> int:
    return min(range(len(windows)), key=lambda i: windows[i].room)


def _pieces(number: int, document: Document, length: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    tokens = np.asarray(document.tokens, FIELDS["inputs"])
    weights = np.asarray(document.weights, FIELDS["weights"])
    if len(tokens) < 2 or len(tokens) != len(weights):
        raise ValueError(
            f"document {number} has {len(tokens)} tokens and {len(weights)} weights; "
            "it needs two tokens or more, and one weight each"
        )
    for start in range(0, len(tokens) - 1, length):
        stop = min(start + length, len(tokens) - 1)
        yield tokens[start:stop], tokens[start + 1 : stop + 1], weights[start + 1 : stop + 1]
