"""Maps from parameters to parameters: averages, growth, and wrappers over a net that know nothing of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm.config import Bfloat16Weights, BlockScales, Looped, MajorityKernels
from lm.strict import ConfigError
from lm.transforms.bfloat16 import bfloat16_weights
from lm.transforms.block_scales import block_scales
from lm.transforms.ema import Average, ema
from lm.transforms.looped import looped
from lm.transforms.majority import majority
from lm.transforms.sharpen import fit_sharpness, sharpen
from lm.transforms.stacking import Stage, grow, index_map, preserved, stages_from, stages_of
from lm.transforms.value_row import value_row
from lm.transforms.wrap import wrap
from lm.types import Net, Params, Transform

__all__ = [
    "make_transform", "settle", "wrap", "wrap_all",
    # wrappers
    "bfloat16_weights", "block_scales", "looped", "majority",
    # growth
    "Stage", "grow", "index_map", "preserved", "stages_from", "stages_of",
    # averages
    "Average", "ema",
    # verifiers
    "value_row",
    # attention
    "fit_sharpness", "sharpen",
]  # fmt: skip


def make_transform(config: Any, model: Any) -> Transform:
    """Return the transform of a configuration for the nets of a model's configuration.

    A configuration from elsewhere is called with that of the model and returns its transform.
    """
    if isinstance(config, MajorityKernels):
        return majority(config)
    if isinstance(config, BlockScales):
        return block_scales(config)
    if isinstance(config, Looped):
        return looped(config, model.depth)
    if isinstance(config, Bfloat16Weights):
        return bfloat16_weights(config)
    if callable(config):
        return config(model)
    raise ConfigError(
        f"transforms must hold MajorityKernels, BlockScales, Looped, Bfloat16Weights or a callable, got {config!r}"
    )


def wrap_all(net: Net, transforms: Sequence[Transform]) -> Net:
    """Return the net with the parameters of the last transform, which stand for those of the one before it."""
    for transform in transforms:
        net = wrap(net, transform)
    return net


def settle(params: Params, transforms: Sequence[Transform]) -> Params:
    """Return the plain net's parameters, as evaluation and export use them."""
    for transform in reversed(transforms):
        params = transform.settle(params)
    return params
