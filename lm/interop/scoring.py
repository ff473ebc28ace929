"""Texts scored and continued by a model: what evaluation harnesses ask for, without any harness.

model = TextModel(net, params, codec, max_length=1024)
model.score([("The cat", " sat"), ("", "A text from its first token on.")])
model.score_whole(["A long text, in windows."])
model.reply(["Q: 2 + 2?\\nA:"], max_new=16, until=["\\n"])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.decode import bucket, sample
from lm.strict import ConfigError
from lm.types import Array, Batch, Net, Params

TOKENS = 2048  # of a batch: its scores over a large vocabulary fill memory before anything else does


class Score(NamedTuple):
    """The log-probability of a continuation, and whether greedy decoding would have written it."""

    logprob: float
    greedy: bool


class Pair(NamedTuple):
    """Tokens and what follows them; the first part is never empty."""

    context: list[int]
    continuation: list[int]


@dataclass(frozen=True)
class TextModel:
    """A model with its codec. `begins` puts the codec's `bos` before every text, as the model was trained.

    An empty context is `bos` in any case. A model sees at most `max_length` tokens; of longer contexts, the end.
    """

    net: Net
    params: Params
    codec: Any
    max_length: int = 1024
    begins: bool = True

    def score(self, texts: Sequence[tuple[str, str]]) -> list[Score]:
        """Return the score of each continuation behind its context."""
        pairs = [self.pair(context, continuation) for context, continuation in texts]
        return score_tokens(self.net, self.params, pairs, self.max_length, self.codec.pad)

    def score_whole(self, texts: Sequence[str]) -> list[float]:
        """Return the log-probability of each text, of any length, its first token behind `bos`."""
        windows = [list(roll(self.codec.encode(text), self.codec.bos, self.max_length)) for text in texts]
        scores = score_tokens(
            self.net, self.params, [p for each in windows for p in each], self.max_length, self.codec.pad
        )
        ends = np.cumsum([len(each) for each in windows])
        parts = np.split(np.array([score.logprob for score in scores]), ends[:-1])
        return [float(part.sum()) for part in parts]

    def reply(
        self, contexts: Sequence[str], *, max_new: int, until: Sequence[str] = (), temperature: float = 0.0
    ) -> list[str]:
        """Return what the model writes behind each context, up to the first of the texts `until` or to its end."""
        room = self.max_length - max_new
        if room < 1:
            raise ConfigError(f"max_new must be below max_length {self.max_length}, got {max_new}")
        prompts = [self._begun(context)[-room:] or [self.codec.bos] for context in contexts]
        key, pad = jax.random.key(0), self.codec.pad
        found = sample(
            self.net,
            self.params,
            prompts,
            max_new=max_new,
            stop=self.codec.eos,
            key=key,
            pad=pad,
            temperature=temperature,
        )
        rows = zip(found.tokens[:, 0], found.lengths[:, 0], strict=True)
        texts = (self.codec.decode(t for t in tokens[:n] if t < self.codec.vocabulary) for tokens, n in rows)
        return [cut(text, until) for text in texts]

    def pair(self, context: str, continuation: str) -> Pair:
        """Return both as tokens, cut where the tokens of the context end in those of the whole text.

        Spaces at the end of the context go to the continuation, as tokens begin with them.
        """
        kept = context.rstrip()
        whole = self._begun(kept + context[len(kept) :] + continuation)
        before = self._begun(kept)
        if len(whole) <= len(before):  # one token spans the cut
            whole = before + self.codec.encode(context[len(kept) :] + continuation)
        if len(whole) <= len(before):
            raise ConfigError(f"the continuation {continuation!r} has no tokens")
        if not kept and not self.begins:
            whole, before = [self.codec.bos, *whole], [self.codec.bos]
        return Pair(whole[: len(before)], whole[len(before) :])

    def _begun(self, text: str) -> list[int]:
        ids = self.codec.encode(text)
        return [self.codec.bos, *ids] if self.begins else ids


def score_tokens(net: Net, params: Params, pairs: Sequence[Pair], max_length: int, pad: int) -> list[Score]:
    """Return the score of each pair, in their order; those of similar length go through together.

    Raises ConfigError where a continuation is longer than the model sees.
    """
    longest = max((len(pair.continuation) for pair in pairs), default=0)
    if longest > max_length:
        raise ConfigError(f"max_length {max_length} is less than a continuation of {longest} tokens")
    rows = [(pair.context + pair.continuation)[-max_length - 1 :] for pair in pairs]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    scores: dict[int, Score] = {}
    while order:
        length = bucket(len(rows[order[0]]) - 1)
        members = [i for i in order[: max(1, TOKENS // length)] if len(rows[i]) - 1 <= length]
        order = order[len(members) :]
        # All batches of a length have one shape, so that one program is compiled for it.
        tokens_BT = np.full((max(1, TOKENS // length), length + 1), pad, np.int32)
        asked_BL = np.zeros((len(tokens_BT), length), bool)
        for row, i in enumerate(members):
            tokens_BT[row, : len(rows[i])] = rows[i]
            asked_BL[row, len(rows[i]) - 1 - len(pairs[i].continuation) : len(rows[i]) - 1] = True
        sums_B, greedy_B = _score(net, params, tokens_BT, asked_BL)
        found = zip(members, np.asarray(sums_B).tolist(), np.asarray(greedy_B).tolist(), strict=False)
        scores |= {i: Score(total, greedy) for i, total, greedy in found}
    return [scores[i] for i in range(len(rows))]


@partial(jax.jit, static_argnums=0)
def _score(net: Net, params: Params, tokens_BT: Array, asked_BL: Array) -> tuple[Array, Array]:
    inputs_BL, targets_BL = tokens_BT[:, :-1], tokens_BT[:, 1:]
    positions_BL = jnp.broadcast_to(jnp.arange(inputs_BL.shape[1]), inputs_BL.shape)
    # Padding stands on the right, in the future of every token that is asked about.
    batch = Batch(inputs_BL, targets_BL, asked_BL, positions_BL, {}, None)
    logprobs_BLV = jax.nn.log_softmax(net.apply(params, batch).logits.astype(jnp.float32))
    logprobs_BL = jnp.take_along_axis(logprobs_BLV, targets_BL[..., None], axis=-1)[..., 0]
    best_BL = (logprobs_BLV.argmax(axis=-1) == targets_BL) | ~asked_BL
    return jnp.where(asked_BL, logprobs_BL, 0).sum(axis=1), best_BL.all(axis=1)


def roll(tokens: Sequence[int], first: int, max_length: int) -> Iterator[Pair]:
    """Yield windows that ask for every token once; behind the first window, each has the most context it can have."""
    whole = [first, *tokens]
    for start in range(1, len(whole), max_length):
        end = min(start + max_length, len(whole))
        yield Pair(whole[max(0, end - max_length - 1) : start], whole[start:end])


def cut(text: str, until: Sequence[str]) -> str:
    """Return a text up to the first place where one of `until` begins; empty ones stop nothing."""
    places = [text.find(stop) for stop in until if stop]
    return text[: min((place for place in places if place >= 0), default=len(text))]
