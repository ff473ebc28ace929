"""Cached sampling: many prompts, many candidates each, in one compiled loop that ends when all have stopped.

found = sample(net, params, [[1, 5, 9], [1, 7]], max_new=32, stop=2, key=jax.random.key(0))
found.tokens[0, 0, : found.lengths[0, 0]]

A candidate depends on its prompt, the prompt's place in the list, its own number and the key: not on the batch it is
computed in, nor on the padding that batch needs. Letter of this file: R = B * C rows in the loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.interrupt import safe_point
from lm.mesh import platform
from lm.strict import ConfigError, require_positive
from lm.types import Array, Batch, Cache, Candidates, Key, Net, Outputs, Params


def sample(net: Net, params: Params, prompts: Sequence[Sequence[int]], **settings: Any) -> Candidates:
    """Sample continuations of all prompts, in their order, as NumPy arrays; settings as those of `sample_batches`."""
    rows, parts = zip(*sample_batches(net, params, prompts, **settings), strict=True)
    place = np.argsort(np.concatenate(rows))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[place], *parts)


def sample_batches(
    net: Net,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    max_new: int,
    stop: int,
    key: Key,
    pad: int = 0,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    candidates: int = 1,
    batch_size: int | None = None,
) -> Iterator[tuple[np.ndarray, Candidates]]:
    """Yield batches of continuations as NumPy arrays, with the places of their prompts in the list.

    The next batch is under way while one is handed out. Temperature 0 takes the best token; above it, draws are from
    the top k, then the top p of what is left. Prompts of similar length go through together, `batch_size` candidates
    or those of one prompt at a time, padded on the left to one of few lengths, so that few programs are compiled.
    Raises ConfigError for an empty prompt or a setting out of range.
    """
    batch_size = ROWS.get(platform(), MANY_ROWS) if batch_size is None else batch_size
    _check(prompts, temperature, top_k, top_p, max_new=max_new, candidates=candidates, batch_size=batch_size)
    keys_P = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(prompts)))
    size = min(max(1, batch_size // candidates), bucket(len(prompts)))
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")

    def begun(rows: np.ndarray) -> tuple[np.ndarray, Candidates]:
        safe_point()
        # The last batch is filled up to the common shape with copies of its first prompt.
        filled = np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])
        tokens_BL, segments_BL = pad_left([prompts[i] for i in filled], pad)
        settings = {"stop": stop, "pad": pad, "temperature": temperature or None, "top_k": top_k, "top_p": top_p}
        settings |= {"max_new": max_new, "candidates": candidates}
        return rows, _generate(net, params, tokens_BL, segments_BL, keys_P[filled], **settings)

    def done(rows: np.ndarray, found: Candidates) -> tuple[np.ndarray, Candidates]:
        return rows, jax.tree.map(lambda leaf: np.asarray(leaf)[: len(rows)], found)

    starts = range(0, len(order), size)
    last = begun(order[:size])
    for start in starts[1:]:
        under_way = begun(order[start : start + size])
        yield done(*last)
        last = under_way
    yield done(*last)


def _check(
    prompts: Sequence[Sequence[int]], temperature: float, top_k: int | None, top_p: float | None, **counts: int
) -> None:
    for name, value in counts.items():
        require_positive(name, value)
    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"temperature must be 0 (greedy) or a positive number, got {temperature}")
    if top_k is not None:
        require_positive("top_k", top_k)
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"top_p must lie in (0, 1], got {top_p}")
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise ConfigError(f"prompt {i} is empty; a prompt needs at least one token")
    if not prompts:
        raise ConfigError("there are no prompts to sample from")


def bucket(count: int) -> int:
    """Return the smallest of 8, 12, 16, 24, 32, 48, ... that holds count."""
    size = 8
    while size < count:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def pad_left(prompts: Sequence[Sequence[int]], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens [B, L] with padding on the left to a bucket, and segments [B, L]: 1, or 0 on padding."""
    length = bucket(max(map(len, prompts)))
    tokens_BL = np.full((len(prompts), length), pad, np.int32)
    segments_BL = np.zeros_like(tokens_BL)
    for row, prompt in enumerate(prompts):
        tokens_BL[row, length - len(prompt) :] = prompt
        segments_BL[row, length - len(prompt) :] = 1
    return tokens_BL, segments_BL


ROWS = {"cpu": 64}  # candidates that are sampled together, by platform: on CPU what they hold stays near the core
MANY_ROWS = 256  # elsewhere
STRETCH = 64  # steps that are not worth a division


class _State(NamedTuple):
    """What the loop carries: the cache, the last token of each row and what has been found so far."""

    cache: Cache
    last_R: Array
    tokens_RT: Array
    lengths_R: Array
    logprobs_R: Array
    finished_R: Array


def generate(
    net: Net,
    params: Params,
    tokens_BL: Array,
    segments_BL: Array,
    keys_B: Key,
    *,
    stop: int,
    max_new: int,
    pad: int = 0,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    candidates: int = 1,
) -> Candidates:
    """Sample from prompts padded on the left, one key a prompt; pure and jittable, temperature None is greedy.

    All candidates of a prompt share its prefill. `logprobs` are the model's own, before temperature and truncation.
    """
    if net.reader is None or net.cache is None or net.grow is None:
        raise ConfigError("this model has no cached decoding and cannot be sampled from")
    read = net.reader(params)
    batch, length = tokens_BL.shape
    positions_BL = jnp.maximum(jnp.cumsum(segments_BL, axis=1) - 1, 0)
    cache = net.cache(batch, length + max_new, room=0)
    outputs, cache = read(_new_tokens(tokens_BL, positions_BL, segments_BL), cache)
    rows = batch * candidates
    prompt_R = jnp.repeat(segments_BL.sum(axis=1), candidates)
    keys_R = jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(candidates)))(keys_B).ravel()

    def accept(state: _State, logits_RV: Array, time: Array) -> _State:
        keys_now_R = jax.vmap(jax.random.fold_in, (0, None))(keys_R, time)
        return _accept(state, choose(logits_RV, keys_now_R, temperature, top_k, top_p), logits_RV, time, stop, pad)

    def step(carry: tuple[Array, _State]) -> tuple[Array, _State]:
        time, state = carry
        batch = _new_tokens(state.last_R[:, None], (prompt_R + time - 1)[:, None], jnp.ones((rows, 1), jnp.int32))
        outputs, cache = read(batch, state.cache)
        return time + 1, accept(state._replace(cache=cache), _last_logits(outputs), time)

    zeros_R = jnp.zeros(rows, jnp.int32)
    empty = _State(
        cache, zeros_R, jnp.full((rows, max_new), pad, jnp.int32), zeros_R, jnp.zeros(rows), jnp.zeros(rows, bool)
    )
    state = accept(empty, jnp.repeat(_last_logits(outputs), candidates, axis=0), jnp.zeros((), jnp.int32))
    time = jnp.ones((), jnp.int32)
    for start, room in stretches(max_new - 1):
        state = state._replace(cache=net.grow(state.cache, room, 1 if start else candidates))

        def is_going(carry: tuple[Array, _State], last: int = start + room) -> Array:
            return (carry[0] <= last) & ~carry[1].finished_R.all()

        time, state = jax.lax.while_loop(is_going, step, (time, state))
    found = (state.tokens_RT, state.lengths_R, state.logprobs_R, state.finished_R)
    return Candidates(*(leaf.reshape(batch, candidates, *leaf.shape[1:]) for leaf in found))


def stretches(count: int) -> list[tuple[int, int]]:
    """Divide so many steps into one stretch or two, (start, length) each.

    Each is a loop over a cache as long as its last step needs, so that early steps read less. More loops would save
    less than they take to compile.
    """
    length = max(STRETCH, -(-count // 2))
    return [(start, min(length, count - start)) for start in range(0, count, length)]


def _accept(state: _State, token_R: Array, logits_RV: Array, time: Array, stop: int, pad: int) -> _State:
    logprob_R = jnp.take_along_axis(jax.nn.log_softmax(logits_RV), token_R[:, None], axis=1)[:, 0]
    kept_R = ~state.finished_R & (token_R != stop)
    return state._replace(
        last_R=token_R,
        tokens_RT=state.tokens_RT.at[:, time].set(jnp.where(kept_R, token_R, pad)),
        lengths_R=state.lengths_R + kept_R,
        logprobs_R=state.logprobs_R + jnp.where(state.finished_R, 0, logprob_R),
        finished_R=state.finished_R | (token_R == stop),
    )


_generate = jax.jit(generate, static_argnames=("net", "max_new", "top_k", "candidates"))


def choose(
    logits_BV: Array,
    keys_B: Key,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Array:
    """Choose a token a row: the best one without temperature, else a draw from what truncation leaves."""
    if temperature is None:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    return draw(truncate(logits_BV / temperature, top_k, top_p), keys_B)


def draw(logits_BV: Array, keys_B: Key) -> Array:
    """Draw a token a row in proportion to exp(logits): a block of tokens by its share, then one of the block.

    Two random numbers a row do, where `jax.random.categorical` takes one a token: a third of a step of a small model.
    """
    width = math.isqrt(logits_BV.shape[-1] - 1) + 1
    padded_BV = jnp.pad(logits_BV, ((0, 0), (0, -logits_BV.shape[-1] % width)), constant_values=-jnp.inf)
    weights_BNV = jnp.exp(padded_BV - padded_BV.max(axis=-1, keepdims=True)).reshape(len(padded_BV), -1, width)
    uniform_B2 = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys_B)
    block_B = place_of(weights_BNV.sum(axis=-1), uniform_B2[:, 0])
    inside_BV = jnp.take_along_axis(weights_BNV, block_B[:, None, None], axis=1)[:, 0]
    return (block_B * width + place_of(inside_BV, uniform_B2[:, 1])).astype(jnp.int32)


def place_of(weights_BN: Array, uniform_B: Array) -> Array:
    """Return where a number of [0, 1) falls among weights laid end to end, [B]; never on a weight of zero."""
    sums_BN = jnp.cumsum(weights_BN, axis=-1)
    return jnp.sum(sums_BN <= (uniform_B * sums_BN[:, -1])[:, None], axis=-1)


def truncate(logits_BV: Array, top_k: int | None = None, top_p: float | None = None) -> Array:
    """Send to -inf all but the k best logits, then all but the fewest that hold a probability of at least p.

    Logits equal to the last one kept are kept too.
    """
    if top_k is not None:
        best_BK = jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[-1]))[0]
        logits_BV = jnp.where(logits_BV >= best_BK[:, -1:], logits_BV, -jnp.inf)
    if top_p is not None:
        sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
        probabilities_BV = jax.nn.softmax(sorted_BV)
        before_BV = jnp.cumsum(probabilities_BV, axis=-1) - probabilities_BV
        threshold_B1 = jnp.min(jnp.where(before_BV < top_p, sorted_BV, jnp.inf), axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV >= threshold_B1, logits_BV, -jnp.inf)
    return logits_BV


def _new_tokens(tokens_BL: Array, positions_BL: Array, segments_BL: Array) -> Batch:
    nothing_BL = jnp.zeros(tokens_BL.shape)
    return Batch(tokens_BL, tokens_BL, nothing_BL, positions_BL, {}, segments_BL)


def _last_logits(outputs: Outputs) -> Array:
    return outputs._replace(features=outputs.features[:, -1:]).logits[:, 0]
