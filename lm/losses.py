"""Objectives: (apply, params, batch, key) -> (loss, metrics).

The loss is the mean over what the batch asks; `metrics["loss"]` carries its sum and count, so that
micro-batches merge into exactly the loss of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from lm.config import (
    ConsistencyLoss,
    HingeLoss,
    NextTokenLoss,
    SharpenedLoss,
    SquaredLoss,
    TransformerConfig,
    VerifierLoss,
)
from lm.mesh import platform, summed
from lm.products import by_left, by_right
from lm.strict import ConfigError
from lm.types import Array, Batch, Key, Mean, Metrics, Objective, Outputs, Params

MANY = 8192  # tokens, from which on the logits are made in chunks
AUGMENT = 7_000_003  # folded into the key of a step, far from what models fold into it


def cross_entropy(logits_BLV: Array, targets_BL: Array) -> Array:
    """Return the negative log-likelihood of each target in nats, [B, L]."""
    return _surprise(logits_BLV, greatest(logits_BLV), targets_BL)


def _surprise(logits_BLV: Array, best_BL1: Array, targets_BL: Array) -> Array:
    picked_BL = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0]
    return _log_total(logits_BLV, best_BL1) - picked_BL


def _log_total(logits_BLV: Array, best_BL1: Array) -> Array:
    return best_BL1[..., 0] + jnp.log(jnp.sum(jnp.exp(logits_BLV - best_BL1), axis=-1))


def greatest(logits_BLV: Array) -> Array:
    """Return the greatest of the logits at each place, [B, L, 1], without a gradient."""
    return jax.lax.stop_gradient(jnp.max(logits_BLV, axis=-1, keepdims=True))


def is_best(logits_BLV: Array, best_BL1: Array, targets_BL: Array) -> Array:
    """Return whether each target has the first of the greatest logits, as argmax would have it, [B, L].

    On CPU argmax takes longer than all the rest of a loss; two reductions that are vectors take a sixth of it.
    """
    ids_V = jnp.arange(logits_BLV.shape[-1])
    return jnp.min(jnp.where(logits_BLV == best_BL1, ids_V, len(ids_V)), axis=-1) == targets_BL


def next_token(
    apply: Callable[..., Outputs], params: Params, batch: Batch, key: Key | None, chunks: int | None = None
) -> tuple[Array, Metrics]:
    """Return the weighted mean cross-entropy of the targets, in nats, and the accuracy of the argmax."""
    outputs = apply(params, batch, key)
    parts = chunks_of(outputs, chunks)
    if parts == 1 or outputs.head is None:
        return _grade(outputs.logits, batch)
    rows = (outputs.features, batch.targets, batch.weights)
    head_DV = outputs.head.astype(outputs.features.dtype)
    total, right = summed(partial(chunked_cross_entropy, parts), (head_DV, outputs.bias), rows)
    return _graded(total, right, batch)


def _grade(logits_BLV: Array, batch: Batch) -> tuple[Array, Metrics]:
    best_BL1 = greatest(logits_BLV)
    losses_BL = _surprise(logits_BLV, best_BL1, batch.targets)
    right_BL = is_best(logits_BLV, best_BL1, batch.targets)
    return _graded(jnp.sum(losses_BL * batch.weights), jnp.sum(right_BL * batch.weights), batch)


def _graded(total: Array, right: Array, batch: Batch) -> tuple[Array, Metrics]:
    count = jnp.sum(batch.weights)
    return total / jnp.maximum(count, 1e-9), {"loss": Mean(total, count), "accuracy": Mean(right, count)}


def chunks_of(outputs: Outputs, chunks: int | None) -> int:
    """Return in how many chunks logits are made: the largest number up to `chunks` that divides the length."""
    if outputs.head is None:
        return 1
    if chunks is None:  # in more of them, adding up the gradient of the head takes longer than is worth the memory
        chunks = 1 if outputs.head.shape[-1] < MANY else 8 if platform() == "cpu" else 4
    return max(parts for parts in range(1, chunks + 1) if outputs.features.shape[1] % parts == 0)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def chunked_cross_entropy(
    chunks: int, linear: tuple[Array, Array | None], rows: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    """Return the sums of `weights` times loss and times right guess, without the logits of all rows at once.

    `linear` is a head [D, V] and its bias, `rows` are features [B, L, D], targets and weights [B, L]. Where gradients
    are asked for, they are made with the logits and scaled on the way back: each product runs once.
    """
    return jax.tree.map(jnp.sum, _in_chunks(lambda part: _score(linear, *part)[:2], chunks, rows))


def _in_chunks(function: Callable[[Any], Any], chunks: int, rows: Any) -> Any:
    return jax.lax.map(function, jax.tree.map(partial(_split, chunks), rows))


def _split(chunks: int, x_BL: Array) -> Array:
    """Return [chunks, B, L / chunks, ...]. Neighbours go to different chunks: no device sends a part of its length."""
    return jnp.moveaxis(x_BL.reshape(x_BL.shape[0], -1, chunks, *x_BL.shape[2:]), 2, 0)


def _score(linear: tuple[Array, Array | None], features_BLD: Array, targets_BL: Array, weights_BL: Array) -> Any:
    """Return losses, right guesses (both weighted) and the gradient of the summed loss by the logits."""
    logits_BLV = Outputs(features_BLD, *linear).logits
    best_BL1 = greatest(logits_BLV)
    total_BL = _log_total(logits_BLV, best_BL1)
    target_BLV = jnp.arange(logits_BLV.shape[-1])[None, None] == targets_BL[..., None]
    losses_BL = total_BL - jnp.sum(jnp.where(target_BLV, logits_BLV, 0.0), axis=-1)
    right_BL = is_best(logits_BLV, best_BL1, targets_BL)
    slope_BLV = (jnp.exp(logits_BLV - total_BL[..., None]) - target_BLV) * weights_BL[..., None]
    return losses_BL * weights_BL, right_BL * weights_BL, slope_BLV


def _forward(chunks: int, linear: tuple[Array, Array | None], rows: tuple[Array, Array, Array]) -> Any:
    head_DV, bias_V = linear

    def add(gradient: Any, part: tuple[Array, Array, Array]) -> Any:
        features_BLD = part[0]
        losses_BL, right_BL, slope_BLV = _score(linear, *part)
        narrow_BLV, dtype = slope_BLV.astype(features_BLD.dtype), features_BLD.dtype
        by_features = by_left(narrow_BLV, head_DV.astype(dtype)).astype(dtype)
        by_head = by_right(features_BLD, narrow_BLV)
        by_bias = None if bias_V is None else jnp.sum(slope_BLV, axis=(0, 1))
        return jax.tree.map(jnp.add, gradient, (by_head, by_bias)), (losses_BL, right_BL, by_features)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), linear)
    by_linear, (losses, right, by_features) = jax.lax.scan(add, zeros, jax.tree.map(partial(_split, chunks), rows))
    return (jnp.sum(losses), jnp.sum(right)), (linear, rows, by_linear, by_features)


def _backward(chunks: int, kept: Any, slopes: tuple[Array, Array]) -> Any:
    """Weights have no gradient: they are the batch's, which asks for none."""
    linear, (features_BLD, _, _), by_linear, by_features = kept
    by_features_BLD = jnp.moveaxis(by_features, 0, 2).reshape(features_BLD.shape)
    by_linear = jax.tree.map(lambda g, x: (slopes[0] * g).astype(x.dtype), by_linear, linear)
    return by_linear, ((slopes[0] * by_features_BLD).astype(features_BLD.dtype), None, None)


chunked_cross_entropy.defvjp(_forward, _backward)


def token_values(logits_BLV: Array, batch: Batch) -> Array:
    """Return the logit of each sequence being right, as far as it was read and with its next target, [B, L].

    It is the log-likelihood of the asked targets of a segment up to this one, and the logit of the head's last row,
    which is no token. Positions count from 0 in every segment.
    """
    asked_BL = batch.weights > 0
    written_BL = jnp.where(asked_BL, -cross_entropy(logits_BLV[..., :-1], batch.targets), 0.0)
    total_BL = jnp.cumsum(written_BL, axis=1)
    start_BL = jnp.arange(total_BL.shape[1])[None] - batch.positions
    return logits_BLV[..., -1] + total_BL - jnp.take_along_axis(total_BL - written_BL, start_BL, axis=1)


def verifier(
    apply: Callable[..., Outputs], params: Params, batch: Batch, key: Key | None, auxiliary: float
) -> tuple[Array, Metrics]:
    """Return the weighted mean of the label's cross-entropy at every token, and of a right one's next token.

    `batch.info["labels"]` [B, L] says by 0 or 1 whether the sequence is right (Liu et al. 2023, section 4); the second
    term, times `auxiliary`, is after Cobbe et al. 2021. Wrong sequences are judged, not learned.
    """
    logits_BLV = apply(params, batch, key).logits
    values_BL, labels_BL = token_values(logits_BLV, batch), batch.info["labels"]
    judged_BL = jax.nn.softplus(values_BL) - labels_BL * values_BL
    written_BL = labels_BL * cross_entropy(logits_BLV[..., :-1], batch.targets)
    count = jnp.sum(batch.weights)
    judged, written = (jnp.sum(losses_BL * batch.weights) for losses_BL in (judged_BL, written_BL))
    total = judged + auxiliary * written
    metrics = {
        "loss": Mean(total, count),
        "value_loss": Mean(judged, count),
        "accuracy": Mean(jnp.sum(((values_BL > 0) == labels_BL) * batch.weights), count),
    }
    return total / jnp.maximum(count, 1e-9), metrics


def consistency(
    apply: Callable[..., Outputs], params: Params, batch: Batch, key: Key | None, weight: float
) -> tuple[Array, Metrics]:
    """Return the next token's loss, and `weight` times the mean square by which the logits change behind other text.

    `batch.info["same"]` [B, P + L, ...] are the inputs behind text that should change nothing (Wen et al. 2023).
    """
    outputs = apply(params, batch, key)
    loss, metrics = next_token(lambda *_: outputs, params, batch, key)
    same_BT = batch.info["same"]
    positions_BT = jnp.broadcast_to(jnp.arange(same_BT.shape[1]), same_BT.shape[:2])
    moved = batch._replace(inputs=same_BT, positions=positions_BT)
    logits_BLV = apply(params, moved, key).logits[:, -batch.inputs.shape[1] :]
    change_BL = jnp.square(logits_BLV - outputs.logits).mean(axis=-1)
    count = jnp.sum(batch.weights)
    changed = jnp.sum(change_BL * batch.weights)
    total = Mean(metrics["loss"].sum + weight * changed, count)
    metrics = metrics | {"loss": total, "change": Mean(changed, count)}
    return loss + weight * changed / jnp.maximum(count, 1e-9), metrics


def spread(attention: Array, measure: str) -> Array:
    """Return how spread the rows of attention [..., L] are, [...]: entropy in nats, or a norm, l2 or linf, negated."""
    if measure == "entropy":
        return -jnp.sum(attention * jnp.log(jnp.maximum(attention, 1e-30)), axis=-1)
    return -jnp.linalg.norm(attention, ord=2 if measure == "l2" else jnp.inf, axis=-1)


def sharpened(
    apply: Callable[..., Outputs], params: Params, batch: Batch, key: Key | None, strength: float, measure: str
) -> tuple[Array, Metrics]:
    """Return the next token's loss, and `strength` times the mean spread of all rows of attention (Liu et al. 2023)."""
    outputs = apply(params, batch, key, attention=True)
    assert outputs.attention is not None, "make_objective lets in only models that attend"
    loss, metrics = _grade(outputs.logits, batch)
    blur, count = jnp.mean(spread(outputs.attention, measure)), metrics["loss"].count
    total = Mean(metrics["loss"].sum + strength * blur * count, count)
    return loss + strength * blur, metrics | {"loss": total, "spread": Mean(blur * count, count)}


def hinge(apply: Callable[..., Outputs], params: Params, batch: Batch, key: Key | None) -> tuple[Array, Metrics]:
    """Return the weighted mean by which the target's logit fails to exceed every other by 1, and the accuracy.

    With two classes it is max(0, 1 - y f) of the score f, the difference of their logits.
    """
    logits_BLV = apply(params, batch, key).logits
    target_BLV = jnp.arange(logits_BLV.shape[-1])[None, None] == batch.targets[..., None]
    right_BL = jnp.sum(jnp.where(target_BLV, logits_BLV, 0.0), axis=-1)
    margin_BL = right_BL - jnp.max(jnp.where(target_BLV, -jnp.inf, logits_BLV), axis=-1)
    count = jnp.sum(batch.weights)
    total = jnp.sum(jax.nn.relu(1 - margin_BL) * batch.weights)
    metrics = {"loss": Mean(total, count), "accuracy": Mean(jnp.sum((margin_BL > 0) * batch.weights), count)}
    return total / jnp.maximum(count, 1e-9), metrics


def squared(apply: Callable[..., Outputs], params: Params, batch: Batch, key: Key | None) -> tuple[Array, Metrics]:
    """Return the weighted mean square by which the numbers said differ from those asked for.

    A net says its one output, or the logit of class 1 beyond that of class 0, as in the hinge loss. Asked for are the
    targets where they are real; where they are classes, `batch.info["values"]` [B, L].
    """
    said_BLV = apply(params, batch, key).logits
    said_BL = said_BLV[..., 0] if said_BLV.shape[-1] == 1 else said_BLV[..., 1] - said_BLV[..., 0]
    real = jnp.issubdtype(batch.targets.dtype, jnp.floating)
    errors_BL = said_BL - (batch.targets if real else batch.info["values"])
    count, total = jnp.sum(batch.weights), jnp.sum(jnp.square(errors_BL) * batch.weights)
    return total / jnp.maximum(count, 1e-9), {"loss": Mean(total, count)}


def augmented(objective: Objective, augment: Callable[[Key, Batch], Batch] | None) -> Objective:
    """Return the objective on batches that `augment`, where there is one, has finished with a key of its own."""
    if augment is None:
        return objective

    def on_augmented(apply: Callable[..., Outputs], params: Params, batch: Batch, key: Key | None):
        assert key is not None, "a batch is augmented by a key"
        return objective(apply, params, augment(jax.random.fold_in(key, AUGMENT), batch), key)

    return on_augmented


OBJECTIVES: Mapping[type, Callable[..., tuple[Array, Metrics]]] = MappingProxyType(
    {
        NextTokenLoss: next_token,
        VerifierLoss: verifier,
        ConsistencyLoss: consistency,
        SharpenedLoss: sharpened,
        HingeLoss: hinge,
        SquaredLoss: squared,
    }
)


def make_objective(config: Any, model: Any) -> Objective:
    """Return the objective of a configuration for the nets of a model's configuration."""
    if type(config) not in OBJECTIVES:
        raise ConfigError(f"objective must be one of {', '.join(cls.__name__ for cls in OBJECTIVES)}, got {config!r}")
    if isinstance(config, SharpenedLoss) and not isinstance(model, TransformerConfig):
        raise ConfigError(f"objective sharpened needs the attention of a TransformerConfig, got {type(model).__name__}")
    return partial(OBJECTIVES[type(config)], **vars(config))
