"""What a model writes below questions, as text: batch by batch, so that it is graded while the next one is sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from lm.types import Net, Params


class Written(NamedTuple):
    """A continuation: its tokens, with the end where it came to one, and their text."""

    tokens: list[int]
    text: str


def write(
    net: Net, params: Params, codec: Any, prompts: Sequence[Sequence[int]], **settings: Any
) -> Iterator[tuple[int, list[Written]]]:
    """Yield the place of each prompt and its continuations; settings as those of `lm.decode.sample_batches`."""
    from lm.decode import sample_batches

    for places, found in sample_batches(net, params, prompts, stop=codec.eos, pad=codec.pad, **settings):
        for place, *candidates in zip(places.tolist(), found.tokens, found.lengths, found.finished, strict=True):
            yield place, [_written(codec, *candidate) for candidate in zip(*candidates, strict=True)]


def _written(codec: Any, tokens_L: Any, length: int, finished: bool) -> Written:
    tokens = [token for token in tokens_L[:length].tolist() if token < codec.vocabulary]  # the head may have more rows
    return Written(tokens + [codec.eos] if finished else tokens, codec.decode(tokens))
