"""Scratchpads as data: a question and the states that follow from it, written so that a step sees one state back.

In the inductive form (Abbe et al. 2024, arXiv 2406.06467) a state may look at the question and at the state before
it alone. Every state but the last is written twice: the second time, without loss, as the context of the next one.

text       Q Q :  a #  a # b #  b # c .     states a, b and c
groups     0 0 0  1 1  2 2 2 2  3 3 3 3     a token attends to its own group and to group 0
positions  0 1 2  3 4  3 4 5 6  3 4 5 6     every step sees the same ids
asked             a #      b #      c .

The full form is the same text without copies, in one group, with positions that go on. Letters of this file: Q
tokens of the question, S states, W tokens of a state, T slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm.strict import ConfigError
from lm.types import Array, Batch, Cache, Example, Net, Params
from tasks.task import next_token

FORMS = ("none", "full", "inductive")
MARKS = "~_:#.;?>+="
PAD, BLANK, BEGIN, NEXT, END, THEN, ASK, ARROW, PLUS, EQUALS = range(len(MARKS))
ZERO = len(MARKS)  # the token of digit 0
FIRST = ZERO + 10  # the first name


def spell(tokens: Sequence[int], name: str) -> str:
    """Return tokens as a reader would write them; `name` is a pattern such as v{} for those from FIRST on."""

    def one(token: int) -> str:
        if token < ZERO:
            return MARKS[token]
        return str(token - ZERO) if token < FIRST else name.format(token - FIRST)

    return " ".join(one(int(token)) for token in tokens)


def text_length(question: int, states: int, width: int, last: int, form: str) -> int:
    """Return the inputs of a text with `states` states of `width` tokens, the last one of `last`."""
    copies = 2 if form == "inductive" else 1
    return question + copies * (states - 1) * width + last - 1


def write(
    question_Q: Array, shown: Array | int, states_SW: Array, lengths_S: Array, length: int, inductive: bool
) -> Example:
    """Write the first `shown` tokens of a question and the states that have a length, as an example [length].

    What is asked are the first writings of states. `info["begin"]` is the length of the question.
    """
    states, width = states_SW.shape
    follows_S = jnp.pad(lengths_S[1:], (0, 1)) > 0
    copied_S = jnp.where(follows_S & inductive, lengths_S, 0)
    # The pieces of the text: the question, then each state and its copy.
    sizes_P = jnp.concatenate([jnp.asarray(shown)[None], jnp.stack([lengths_S, copied_S], axis=1).reshape(-1)])
    ends_P = jnp.cumsum(sizes_P)
    order_T = jnp.arange(length + 1)
    piece_T = jnp.sum(order_T[:, None] >= ends_P[None], axis=1)
    there_T, piece_T = piece_T <= 2 * states, jnp.minimum(piece_T, 2 * states)
    offset_T = order_T - (ends_P - sizes_P)[piece_T]

    state_T, is_state_T, is_copy_T = (piece_T - 1) // 2, piece_T > 0, piece_T % 2 == 0
    written_T = states_SW[jnp.maximum(state_T, 0), jnp.minimum(offset_T, width - 1)]
    tokens_T = jnp.where(is_state_T, written_T, jnp.take(question_Q, offset_T, mode="clip"))
    example = next_token(
        jnp.where(there_T, tokens_T, PAD),
        there_T & is_state_T & ~is_copy_T,
        jnp.where(there_T, order_T, 0),
        {"begin": jnp.asarray(shown)},
    )
    if not inductive:
        return example
    # A state stands behind the copy of the one before it, and the copy where the question ends.
    before_T = jnp.where(is_copy_T | (state_T == 0), 0, copied_S[jnp.maximum(state_T - 1, 0)])
    positions_T = jnp.where(is_state_T, shown + before_T + offset_T, offset_T)
    groups_T = jnp.where(is_state_T, state_T + 1 + is_copy_T, 0)
    positions_T, groups_T = (jnp.where(there_T, x_T, 0)[:-1].astype(jnp.int32) for x_T in (positions_T, groups_T))
    return example._replace(positions=positions_T, groups=groups_T)


class Written(NamedTuple):
    """What a net wrote, state by state: tokens [B, S, W] and how many of them each state has, [B, S]."""

    tokens: Array
    lengths: Array


def induce(net: Net, params: Params, questions_BQ: Array, shown_B: Array, states: int, width: int) -> Written:
    """Write up to `states` states of up to `width` tokens, greedily, each from the question and the last state alone.

    Questions stand on the left of their rows. A state ends with NEXT, the last one with END. Every state begins with
    the cache as the question left it, and with ids that start anew. Pure and jittable.
    """
    if net.cache is None or net.reader is None:
        raise ConfigError("this model has no cached decoding and cannot write a scratchpad")
    read, (batch, shown) = net.reader(params), questions_BQ.shape
    shift_B1 = (shown - shown_B)[:, None]
    order_1Q, order_1W = jnp.arange(shown)[None], jnp.arange(width)[None]

    def see(cache: Cache, tokens_BN: Array, positions_BN: Array, there_BN: Array) -> tuple[Array, Cache]:
        """Return the scores behind the last token, which stands at the right end."""
        positions_BN = jnp.where(there_BN, positions_BN, 0)
        nothing_BN = jnp.zeros(tokens_BN.shape)
        batch = Batch(tokens_BN, tokens_BN, nothing_BN, positions_BN, {}, there_BN.astype(jnp.int32))
        outputs, cache = read(batch, cache)
        return outputs._replace(features=outputs.features[:, -1:]).logits[:, 0], cache

    def write_state(cache: Cache, logits_BV: Array, begin_B: Array, going_B: Array) -> Written:
        def step(carry, place):
            cache, logits_BV, going_B = carry
            token_B = jnp.where(going_B, jnp.argmax(logits_BV, axis=-1), PAD).astype(jnp.int32)
            logits_BV, cache = see(cache, token_B[:, None], (begin_B + place)[:, None], going_B[:, None])
            return (cache, logits_BV, going_B & (token_B != NEXT) & (token_B != END)), (token_B, going_B)

        _, (tokens_WB, there_WB) = jax.lax.scan(step, (cache, logits_BV, going_B), jnp.arange(width))
        return Written(tokens_WB.T, there_WB.sum(axis=0))

    def next_state(carry, _):
        last, going_B = carry
        there_BW = order_1W >= width - last.lengths[:, None]
        copy_BW = jnp.take_along_axis(last.tokens, (order_1W + last.lengths[:, None]) % width, axis=1)
        positions_BW = shown_B[:, None] + order_1W - (width - last.lengths[:, None])
        logits_BV, seen = see(cache, copy_BW, positions_BW, there_BW)
        found = write_state(seen, logits_BV, shown_B + last.lengths, going_B)
        return (found, going_B & ~ended(found)), found

    def ended(found: Written) -> Array:
        return jnp.any(found.tokens == END, axis=1)

    rows_BQ = jnp.take_along_axis(questions_BQ, (order_1Q - shift_B1) % shown, axis=1)
    empty = jax.lax.optimization_barrier(net.cache(batch, shown + 2 * width))
    logits_BV, cache = see(empty, rows_BQ, order_1Q - shift_B1, order_1Q >= shift_B1)
    first = write_state(cache, logits_BV, shown_B, jnp.ones(batch, bool))
    _, others = jax.lax.scan(next_state, (first, ~ended(first)), None, length=states - 1)
    return jax.tree.map(lambda one, more: jnp.concatenate([one[:, None], more.swapaxes(0, 1)], axis=1), first, others)
