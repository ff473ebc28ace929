"""From parameters of ours to tensors of theirs and back, by the table of a family.

plan = plan_of(LLAMA, parameter_shapes(config))  # {name of theirs: where it goes}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm.config import TransformerConfig
from lm.exits import Unusable
from lm.interop.families import Family, Tensor
from lm.types import Params

Shapes = Mapping[str, tuple[int, ...]]


class Piece(NamedTuple):
    """What a tensor of theirs holds: its row of the table, and the layer where it belongs to one."""

    tensor: Tensor
    layer: int | None

    def shape(self, shapes: Shapes) -> tuple[int, ...]:
        """Return its shape, given those of our parameters."""
        skip = 0 if self.layer is None else 1
        ours = [shapes[path][skip:] for path in self.tensor.ours]
        joined = (*ours[0][:-1], sum(shape[-1] for shape in ours))
        return joined[::-1] if self.tensor.transposed else joined

    def of(self, leaves: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the parameters that it holds, as views."""
        whole = [leaves[path] for path in self.tensor.ours]
        return whole if self.layer is None else [leaf[self.layer] for leaf in whole]


def plan_of(family: Family, shapes: Shapes) -> dict[str, Piece]:
    """Return the tensors of a model by name; Unusable where a parameter of ours has no place."""
    plan: dict[str, Piece] = {}
    homeless = set(shapes)
    for tensor in family.tensors:
        if set(tensor.ours) <= set(shapes):
            homeless -= set(tensor.ours)
            layers = range(shapes[tensor.ours[0]][0]) if "{}" in tensor.theirs else (None,)
            plan |= {tensor.theirs.format(layer): Piece(tensor, layer) for layer in layers}
    if homeless:
        raise Unusable(f"{family.architecture} has no tensor for {min(homeless)}")
    return plan


def join(tensor: Tensor, parts: Sequence[np.ndarray], heads: int) -> np.ndarray:
    """Return parameters of ours as one array in their layout."""
    if tensor.by_head:
        stacked = np.stack([part.reshape(*part.shape[:-1], heads, -1) for part in parts], axis=-2)
        joined = stacked.reshape(*stacked.shape[:-3], -1)
    else:
        joined = np.concatenate(parts, axis=-1)
    return joined.T if tensor.transposed else joined


def split(tensor: Tensor, array: np.ndarray, widths: Sequence[int], heads: int) -> list[np.ndarray]:
    """Return the parameters of ours in an array of theirs; the inverse of `join`."""
    array = array.T if tensor.transposed else array
    if not tensor.by_head:
        return np.split(array, np.cumsum(widths)[:-1], axis=-1)
    by_head = array.reshape(*array.shape[:-1], heads, len(widths), -1)
    return [part.reshape(*array.shape[:-1], -1) for part in np.moveaxis(by_head, -2, 0)]


def parameter_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a configuration by path, without making any."""
    import jax

    from lm.models import build

    tree = jax.eval_shape(lambda: build(config).init(jax.random.key(0)))
    return {path: tuple(leaf.shape) for path, leaf in flat(tree).items()}


def flat(params: Params) -> dict[str, Any]:
    """Return the leaves of nested parameters by path."""
    from flax.traverse_util import flatten_dict

    return flatten_dict(params, sep="/")


def nested(leaves: Mapping[str, Any]) -> Params:
    """Return leaves by path as nested parameters."""
    from flax.traverse_util import unflatten_dict

    return unflatten_dict(dict(leaves), sep="/")
