"""What a transformer looks at and what it needs: attention maps, heads taken out one by one, a probe at each depth.

pictures = look(config, params, batch, key, name=task.spell)
add_pictures("runs/flip_flop_attention_cpu", "Inside", pictures)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import TransformerConfig
from lm.observe import Edit, edited, observe
from lm.probe import Probe, linear_probe
from lm.report.pictures import HeatMap, Lines, Picture
from lm.report.svg import Series
from lm.types import Array, Batch, Key, Params

ATTENTION, HEADS = "blocks/attention/weights", "blocks/attention/heads"
EMBEDDING, STREAM = "(embedding|input)", "blocks/stream"  # of tokens, or of numbers
SHOWN = 32  # positions of an attention map; of a longer text the last ones


class Inside(NamedTuple):
    """Share of the asked tokens that are right, [N, H] of it lost without a head, a probe at each depth from 0."""

    accuracy: float
    lost_NH: np.ndarray
    probes: list[Probe]


def accuracy(logits_BLV: Array, batch: Batch) -> Array:
    """Return the share of the asked tokens that the argmax gets right."""
    right_BL = jnp.argmax(logits_BLV, axis=-1) == batch.targets
    return jnp.sum(right_BL * batch.weights) / jnp.sum(batch.weights)


def heads_taken_out(config: TransformerConfig, params: Params, batch: Batch) -> tuple[float, np.ndarray]:
    """Return the accuracy on a batch, and what each head's is worth: [N, H] of it lost where the head says its mean.

    A head's mean is taken over the batch and its positions: what it says whatever the text is.
    """
    depth, heads = config.depth, config.heads

    @jax.jit
    def measure(params: Params, batch: Batch) -> tuple[Array, Array]:
        seen_NBLE = observe(config, params, batch, f"^{HEADS}$")[HEADS]
        mean_N11E = jnp.mean(seen_NBLE, axis=(1, 2), keepdims=True)
        head_E = jnp.arange(seen_NBLE.shape[-1]) * heads // seen_NBLE.shape[-1]

        def without_head(which: Array) -> Array:
            here_NE = (jnp.arange(depth) == which // heads)[:, None] & (head_E == which % heads)[None]
            edit = {HEADS: Edit(here_NE[:, None, None, :], mean_N11E)}
            return accuracy(edited(config, params, batch, edit).logits, batch)

        whole = accuracy(edited(config, params, batch, {}).logits, batch)
        return whole, whole - jax.lax.map(without_head, jnp.arange(depth * heads))

    whole, lost_M = measure(params, batch)
    return float(whole), np.asarray(lost_M).reshape(depth, heads)


def probes(config: TransformerConfig, params: Params, batch: Batch, key: Key) -> list[Probe]:
    """Return how well a linear map reads the last asked token off the embedding and off what each block hands on."""
    place_B = np.asarray(batch.weights).shape[1] - 1 - np.argmax(np.asarray(batch.weights)[:, ::-1] > 0, axis=1)
    rows_B = np.arange(len(place_B))
    (embedded_BLD,) = observe(config, params, batch, f"^{EMBEDDING}$").values()
    stream_NBLD = observe(config, params, batch, f"^{STREAM}$")[STREAM]
    labels_B = batch.targets[rows_B, place_B]
    return [linear_probe(x_BLD[rows_B, place_B], labels_B, key) for x_BLD in (embedded_BLD, *stream_NBLD)]


def pictures_of(found: Inside) -> list[Picture]:
    """Return the heads' worth as a map, and the probes with their controls as curves over depth."""
    layers = range(1, len(found.lost_NH) + 1)
    lost = HeatMap(
        "Accuracy lost without a head, points of 100",
        (100 * np.maximum(found.lost_NH, 0)).tolist(),
        rows=[f"layer {n}" for n in layers],
        columns=[f"head {h + 1}" for h in range(found.lost_NH.shape[1])],
        caption=f"Each head in turn says its mean; with all heads {100 * found.accuracy:.1f} % of the asked are right.",
    )
    curves = [
        Series(name, range(len(found.probes)), [getattr(probe, field) for probe in found.probes])
        for name, field in (("probe", "accuracy"), ("shuffled labels", "shuffled"), ("most frequent", "majority"))
    ]
    read = Lines(
        "What a linear map reads off each layer: share of held-out texts",
        curves,
        "layer (0 is the embedding)",
        "accuracy on held-out texts",
        percent=True,
        caption="The last asked token, read at its place; a probe of shuffled labels says what is learned by heart.",
    )
    return [lost, read]


def attention_maps(
    config: TransformerConfig,
    params: Params,
    batch: Batch,
    names: Sequence[str],
    order: Sequence[tuple[int, int]],
) -> list[Picture]:
    """Return a map for each (layer, head) of `order`: how row queries spread over keys, in the first text of a batch.

    `names` are its tokens as a reader would write them; of a long text the last positions are shown.
    """
    one = jax.tree.map(lambda x: x[:1], batch)
    weights_NHLL = np.asarray(observe(config, params, one, f"^{ATTENTION}$")[ATTENTION])[:, 0]
    length = weights_NHLL.shape[-1]
    start = max(0, length - SHOWN)
    shown = [str(name) for name in names[start:]]
    part = "" if start == 0 else f", the last {length - start} of {length} tokens"
    return [
        HeatMap(
            f"Layer {n + 1}, head {h + 1}: attention{part}",
            weights_NHLL[n, h, start:, start:].tolist(),
            rows=shown,
            columns=shown,
            high=1.0,
            percent=True,
        )
        for n, h in order
    ]


def look(
    config: TransformerConfig, params: Params, batch: Batch, key: Key, name: Callable[[list[int]], str], maps: int = 8
) -> tuple[Inside, list[Picture]]:
    """Return what is inside, and its pictures: heads, probes, and the attention maps of the heads worth most."""
    found = Inside(*heads_taken_out(config, params, batch), probes(config, params, batch, key))
    heads = found.lost_NH.shape[1]
    order = [divmod(int(i), heads) for i in np.argsort(-found.lost_NH, axis=None, kind="stable")[:maps]]
    tokens = np.asarray(batch.inputs[0])
    names = [name([int(token)]) for token in tokens] if tokens.ndim == 1 else [str(i) for i in range(len(tokens))]
    return found, [*pictures_of(found), *attention_maps(config, params, batch, names, order)]
