"""The types that every room shares, and the glossary of shape letters.

Shapes stand in array names, one capital letter an axis (`tokens_BL` is [batch, length]):

    B batch    L length    D model width    F feed-forward width    H query heads    K key/value heads
    V vocabulary    N depth (layers)    P population    A position axes    C candidates    S cache length

A model that uses its own letter (`hd`, the width of one head) says so where it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Key = jax.Array
Params = Any
DType = Any


class Example(NamedTuple):
    """One example, or a batch of them with a leading B on every array.

    Targets are already shifted where the task is next-token, and real where numbers are asked for. Weights are the
    loss mask: 0 where nothing is asked. Positions are data, not a model flag: [L], or [L, A] for tasks with several
    position axes.
    Attention stays within a segment; segment 0 is padding and None means one segment without padding. Within its
    segment a token attends to its own group and to group 0; None means that all tokens are of one group.
    `info` is for scoring and rendering alone; no model reads it.
    """

    inputs: Array
    targets: Array
    weights: Array
    positions: Array
    info: dict[str, Array]
    segments: Array | None = None
    groups: Array | None = None


Batch = Example


class Mean(NamedTuple):
    """A mean kept as sum and count, so that parts merge exactly and nothing is read before the writer does."""

    sum: Array | float
    count: Array | float  # type: ignore[assignment]  # hides tuple.count, which a mean does not need

    def merge(self, other: Mean) -> Mean:
        return Mean(self.sum + other.sum, self.count + other.count)

    @property
    def value(self) -> Array | float:
        return self.sum / (self.count + (self.count == 0))


Metrics = dict[str, Mean]


class Outputs(NamedTuple):
    """What a net says about a batch: features and the linear head that turns them into scores.

    Features are [B, L, D] and head is [D, V], so that a loss may project in chunks and a decoder may project
    the last position alone. With `head` None the features are the predictions themselves. Attention, where it was
    asked for, is [N, B, H, L, L] in float32.
    """

    features: Array
    head: Array | None = None
    bias: Array | None = None
    attention: Array | None = None

    @property
    def logits(self) -> Array:
        """Scores in float32, [B, L, V]."""
        if self.head is None:
            return self.features.astype(jnp.float32)
        logits = jnp.matmul(self.features, self.head.astype(self.features.dtype), preferred_element_type=jnp.float32)
        return logits if self.bias is None else logits + self.bias.astype(jnp.float32)[None, None]


class Cache(NamedTuple):
    """The decoding state of a net: what `extend` has seen so far.

    Every leaf of `layers` is [n, B, ...] for all or some of the layers, or [n, b, ...] where B / b rows that follow
    each other share what it holds; every leaf of `tokens` is [B, ...] (positions and segments of the cached keys,
    say), and `index` is the number of slots in use, one for the whole batch: prompts are padded on the left with
    segment 0, so all rows write to the same slot.
    """

    layers: Any
    tokens: Any
    index: Array  # type: ignore[assignment]


Reader = Callable[[Batch, Cache], tuple[Outputs, Cache]]


class Net(NamedTuple):
    """A model as pure functions. Methods wrap it; none of them knows which model it is.

    init(key) -> params
    apply(params, batch, key=None) -> Outputs; a key turns on what is random (dropout, redrawn positions), and a
    transformer's takes `attention=True`, which puts its attention into the outputs
    cache(batch_size, length, room=None) -> Cache, or None where the model has no cached decoding: of `length` slots,
    `room` of them open, all by default. Without any, the tokens read first take as many as they are. A transformer's
    takes `groups=True`, which keeps the groups of what it has seen
    grow(cache, room, copies=1) -> Cache: all open slots are full, and so many more are opened; every row goes on
    `copies` times, and the copies follow each other
    reader(params) -> (batch, cache) -> (Outputs of the new tokens, Cache): batch holds only the new tokens. What can
    be done to the parameters ahead, casts say, is done once, so a loop calls `reader` outside
    """

    init: Callable[[Key], Params]
    apply: Callable[..., Outputs]
    cache: Callable[..., Cache] | None = None
    grow: Callable[..., Cache] | None = None
    reader: Callable[[Params], Reader] | None = None

    def extend(self, params: Params, batch: Batch, cache: Cache) -> tuple[Outputs, Cache]:
        """Read new tokens once."""
        assert self.reader is not None
        return self.reader(params)(batch, cache)


class Transform(NamedTuple):
    """Other parameters for the same net: how they begin, and which parameters of the net they stand for.

    init(net.init, key) -> params
    settle(params, key=None) -> the net's parameters: with a key as a training step draws them, else as
    evaluation and export use them
    """

    init: Callable[[Callable[[Key], Params], Key], Params]
    settle: Callable[..., Params]


# (apply, params, batch, key) -> (loss, metrics)
Objective = Callable[[Callable[..., Outputs], Params, Batch, Key | None], tuple[Array, Metrics]]


class GuardState(NamedTuple):
    """What a guard remembers, scalars that begin at zero."""

    skipped: Array  # steps not taken, in all
    in_a_row: Array  # steps not taken since the last good one
    norm: Array  # running mean of the gradient norms of good steps
    seen: Array  # good steps behind it
    offset: Array  # how far the data run ahead of the step


class TrainState(NamedTuple):
    """All that training carries from step to step; `ema` and `guard` are None where there is none."""

    step: Array
    params: Params
    opt_state: Any
    ema: Params | None
    key: Key
    guard: GuardState | None = None


class Rate(NamedTuple):
    """A proportion with its 95 % interval (Wilson) and the number of trials behind it; or a mean with a `unit`."""

    value: float
    low: float
    high: float
    count: int  # type: ignore[assignment]
    unit: str = ""  # "" is a proportion

    def figures(self) -> dict[str, Any]:
        """Return the rate as JSON, with its unit where it has one."""
        return {name: value for name, value in self._asdict().items() if name != "unit" or value}


class Evaluation(NamedTuple):
    """The outcome of an evaluation: rates over all, rates by size or slice, and examples to look at.

    `slices` maps a slicing ("size", "steps") to {slice: {metric: Rate}}. Each example is a JSON object with
    at least `question`, `target`, `prediction` and `right`.
    """

    metrics: dict[str, Rate]
    slices: dict[str, dict[str, dict[str, Rate]]]
    examples: list[dict[str, Any]]

    def figures(self) -> dict[str, Any]:
        """Return metrics and slices as JSON, each rate as {value, low, high, count}."""

        def written(rates: dict[str, Rate]) -> dict[str, Any]:
            return {metric: rate.figures() for metric, rate in rates.items()}

        slices = {
            slicing: {name: written(rates) for name, rates in parts.items()} for slicing, parts in self.slices.items()
        }
        return {"metrics": written(self.metrics), "slices": slices}


class Candidates(NamedTuple):
    """Sampled continuations: C for each of B prompts, padded after their end.

    tokens_BCL int32 (without the stop token), lengths_BC, logprobs_BC (sum over the sampled tokens, stop
    token included), finished_BC (False where the budget ran out before a stop token).
    """

    tokens: Array
    lengths: Array
    logprobs: Array
    finished: Array


class Source(NamedTuple):
    """What a task hands to the drivers: its data, its examination and its provenance.

    Exactly one of `draw` (key, step) -> Batch, pure and jittable, drawn inside the compiled step, and
    `at` (step) -> Batch of NumPy arrays, read on the host by position, is given. Either way the whole state
    of the data is the step. `evaluate` (net, params, key) -> Evaluation. `facts` goes into stamp.json.
    `codec` turns text into tokens and back where the task has text; `prompt` (text) -> tokens writes a question
    as the model reads it. `augment` (key, batch) -> Batch finishes a batch for training, on the device and inside
    the step: random crops, say, of images that were read as bytes. `ids` (step) names the rows of `at(step)` for a
    reader, so that a bad example can be found: their numbers in the corpus, say.
    """

    draw: Callable[[Key, Array], Batch] | None
    at: Callable[[int], Batch] | None
    evaluate: Callable[[Net, Params, Key], Evaluation]
    facts: dict[str, Any]
    codec: Any = None
    prompt: Callable[[str], list[int]] | None = None
    augment: Callable[[Key, Batch], Batch] | None = None
    ids: Callable[[int], Sequence[Any]] | None = None
