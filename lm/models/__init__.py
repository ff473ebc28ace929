"""Models as pure functions: `build(config)` returns the (init, apply, cache, extend) of any configuration.

The modules behind them are plain Flax Linen modules, for use on their own:

    from lm.models import Attention, FeedForward, Transformer
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lm.config import (
    RESNETS,
    MLPConfig,
    ModelConfig,
    PositionalConfig,
    ReaderConfig,
    RecurrentConvolutionConfig,
    ResNetConfig,
    RNNConfig,
    TransformerConfig,
)
from lm.models.attention import Attention, blocked_attention, causal_attention, plain_attention
from lm.models.convolution import BatchNorm, Convolution, GroupNorm, convolve
from lm.models.layers import Embedding, FeedForward, Norm, Projection
from lm.models.majority import MajorityConv, MajorityDense
from lm.models.mlp import MLP, mlp_net
from lm.models.positional import Positional, positional_net
from lm.models.positions import Scheme, make_scheme, rotate
from lm.models.reader import Reader, reader_net
from lm.models.recurrent_convolution import RecurrentConvolution, recurrent_convolution_net
from lm.models.resnet import ResNet, resnet_net
from lm.models.rnn import RNN, rnn_net
from lm.models.transformer import Block, Transformer, transformer_net
from lm.strict import ConfigError
from lm.types import Example, Net

__all__ = [
    "build",
    # whole models
    "MLP", "Positional", "RNN", "Reader", "RecurrentConvolution", "ResNet", "Transformer",
    # layers
    "Attention", "BatchNorm", "Block", "Convolution", "Embedding", "FeedForward", "GroupNorm", "Norm", "Projection",
    "MajorityConv", "MajorityDense",
    # functions of arrays
    "blocked_attention", "causal_attention", "convolve", "plain_attention", "rotate",
    # published networks by name
    "RESNETS",
    # positions
    "Scheme", "make_scheme",
]  # fmt: skip

NETS: dict[type, Callable[[Any], Net]] = {
    TransformerConfig: transformer_net,
    RNNConfig: rnn_net,
    ReaderConfig: reader_net,
    PositionalConfig: positional_net,
    MLPConfig: mlp_net,
    RecurrentConvolutionConfig: recurrent_convolution_net,
    ResNetConfig: resnet_net,
}


def build(config: ModelConfig) -> Net:
    """Return the model of a configuration; one that makes no model is a ConfigError that names the field."""
    if type(config) not in NETS:
        raise ConfigError(f"model must be one of {', '.join(cls.__name__ for cls in NETS)}, got {config!r}")
    net = NETS[type(config)](config)
    return net if isinstance(config, TransformerConfig) else _without_groups(net, type(config).__name__)


def _without_groups(net: Net, name: str) -> Net:
    """Return a net that refuses batches with groups: it has no causal attention that they could mask."""

    def refusing(run: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*arguments: Any, **settings: Any) -> Any:
            if any(isinstance(each, Example) and each.groups is not None for each in arguments):
                raise ConfigError(f"model {name} cannot read a batch with groups; they mask a TransformerConfig alone")
            return run(*arguments, **settings)

        return checked

    make = net.reader
    return net._replace(apply=refusing(net.apply), reader=None if make is None else lambda p: refusing(make(p)))
