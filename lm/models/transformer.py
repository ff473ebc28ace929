"""A decoder transformer whose blocks are one stack of parameters with a leading depth axis.

net = build(TransformerConfig(vocabulary=256, depth=4, width=256))
params = net.init(jax.random.key(0))
logits_BLV = net.apply(params, batch).logits

Parameters by path (N depth, D width, F feed-forward width, H h and K h the widths of all query and key/value heads);
sharding rules, decay masks and growth maps match on these names:

    embedding/table                          [V, D]          absent where inputs are numbers
    input/kernel                             [inputs, D]     where they are
    positions/table                          [rows, D]; [A, rows, D] where separate     Learned
    positions/bias                           [buckets, H]                               RelativeBias
    blocks/attention_norm/scale              [N, D]          norm before (pre, both) or after (post) attention
    blocks/attention/query/kernel            [N, D, H h]
    blocks/attention/key/kernel              [N, D, K h]
    blocks/attention/value/kernel            [N, D, K h]
    blocks/attention/output/kernel           [N, H h, D]
    blocks/attention/temper/tau              [N]             tempered without a length
    blocks/attention_post_norm/scale         [N, D]          norm_place "both"
    blocks/feedforward_norm/scale            [N, D]          absent in parallel blocks with a shared norm
    blocks/feedforward/gate/kernel           [N, D, F]       swiglu, geglu, reglu
    blocks/feedforward/up/kernel             [N, D, F]
    blocks/feedforward/down/kernel           [N, F, D]
    blocks/feedforward_post_norm/scale       [N, D]          norm_place "both"
    final_norm/scale                         [D]             norm_place "pre" and "both"
    head/kernel                              [D, V]          untied

Beside every kernel stands a `bias` where the configuration asks for it, beside every scale where the norm is "layer".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.config import Learned, Randomised, TransformerConfig
from lm.mesh import first_slot, gather_tokens, run_stack, spread_rows, spread_tokens, stack_axes
from lm.models import layers
from lm.models.attention import (
    Attention,
    Context,
    KeysValues,
    LayerCache,
    Past,
    attention_form,
)
from lm.models.cache import Layout, look_back, through_layers
from lm.models.layers import Embedding, FeedForward, Here, Norm, Projection, Weights
from lm.models.masks import causal, open_groups, same_segment
from lm.models.positions import Scheme, make_scheme
from lm.strict import ConfigError, require_choice, require_fraction, require_positive
from lm.types import Array, Batch, Cache, DType, Key, Net, Outputs, Params, Reader


@dataclasses.dataclass(frozen=True)
class Resolved(TransformerConfig):
    """A configuration that makes a model, with every derived value filled in."""

    kv_heads: int = 1
    head_width: int = 1
    feedforward: int = 1
    qkv_bias: bool = False
    head_bias: bool = False
    products: str = "float32"
    remat: str = "none"
    unroll: bool = False

    @property
    def operands(self) -> DType | None:
        return None if self.reference else jnp.dtype(self.products)

    def make_norm(self, name: str) -> Norm:
        return Norm(self.norm, self.norm_epsilon, jnp.dtype(self.dtype), self.reference, name=name)

    @property
    def scheme(self) -> Scheme:
        return make_scheme(self.positions, width=self.width, heads=self.heads, head_width=self.head_width)

    @property
    def layout(self) -> Layout:
        # One group of all layers for a loop, or a group a layer: XLA on CPU copies a layer to read it out of a group.
        groups = (1,) * self.depth if self.unroll else (self.depth,)
        kept = self.dtype if self.reference or self.dtype == "bfloat16" else self.products
        return Layout(groups, self.kv_heads, self.head_width, kept, self.dtype if self.reference else self.products)

    @property
    def initialisers(self) -> layers.Initialisers:
        return layers.initialisers(self.initialisation, depth=self.depth, width=self.width, head_width=self.head_width)


def resolve(config: TransformerConfig) -> Resolved:
    """Return the configuration with every derived value filled in; raise ConfigError where it makes no model."""
    for name in ("vocabulary", "depth", "width", "heads", "norm_epsilon"):
        require_positive(f"model.{name}", getattr(config, name))
    for name in ("inputs", "kv_heads", "head_width", "feedforward", "window"):
        require_positive(f"model.{name}", 1 if getattr(config, name) is None else getattr(config, name))
    require_choice("model.activation", config.activation, (*layers.ACTIVATIONS, *layers.GATED))
    require_choice("model.norm", config.norm, ("rms", "layer"))
    require_choice("model.norm_place", config.norm_place, ("pre", "post", "both"))
    require_choice("model.initialisation", config.initialisation, layers.INITIALISATIONS)
    require_choice("model.remat", str(config.remat), layers.REMAT)
    for name in ("dropout", "embedding_dropout"):
        require_fraction(f"model.{name}", getattr(config, name))
    if config.tempered is not None and isinstance(config.positions, Randomised):
        raise ConfigError("model.tempered counts keys by position, which model.positions Randomised draws anew")
    if config.inputs is not None and config.tied:
        raise ConfigError("model.tied must be false where model.inputs are numbers: there is no embedding to share")
    if config.head_width is None and config.width % config.heads:
        raise ConfigError(f"model.width {config.width} is not a multiple of model.heads {config.heads}")
    kv_heads = config.heads if config.kv_heads is None else config.kv_heads
    if config.heads % kv_heads:
        raise ConfigError(f"model.heads {config.heads} is not a multiple of model.kv_heads {kv_heads}")
    dtype = layers.compute_dtype(config.dtype)
    products = layers.compute_dtype(config.products or dtype, "model.products")
    if config.reference and products != dtype:
        raise ConfigError(f"model.products {config.products} is not for model.reference, whose operands are {dtype}")
    gated_hidden = -(-8 * config.width // 24) * 8
    hidden = gated_hidden if config.activation in layers.GATED else 4 * config.width
    derived = {
        "kv_heads": kv_heads,
        "head_width": config.head_width or config.width // config.heads,
        "feedforward": config.feedforward or hidden,
        "qkv_bias": config.bias if config.qkv_bias is None else config.qkv_bias,
        "head_bias": config.bias if config.head_bias is None else config.head_bias,
        "attention": "plain" if config.reference else attention_form(config.attention),
        "dtype": dtype,
        "products": products,
        "unroll": layers.unrolled(config.depth) if config.unroll is None else config.unroll,
    }
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(TransformerConfig)}
    resolved = Resolved(**{**given, **derived})
    resolved.scheme  # noqa: B018 - a scheme checks its own settings when it is made
    return resolved


class Block(nn.Module):
    """Attention and feed-forward around the residual stream x [M, D]; the body of the scan over depth."""

    config: Resolved
    deterministic: bool = True

    @nn.compact
    def __call__(self, x_MD: Array, cache: LayerCache | None, context: Context) -> tuple[Array, KeysValues | None]:
        config, inits, dtype = self.config, self.config.initialisers, jnp.dtype(self.config.dtype)
        attention = Attention(
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_width=config.head_width,
            scale=1.0 if config.initialisation == "t5" else config.head_width**-0.5,
            use_bias=config.bias,
            qkv_bias=config.qkv_bias,
            window=config.window,
            tempered=config.tempered,
            dtype=dtype,
            query_init=inits.query,
            kernel_init=inits.kernel,
            residual_init=inits.residual,
            score_bias=config.scheme.bias if config.scheme.biased else None,
            form=config.attention,
            operands=config.operands,
            name="attention",
        )
        feedforward = FeedForward(
            hidden=config.feedforward,
            activation=config.activation,
            use_bias=config.bias,
            dtype=dtype,
            kernel_init=inits.kernel,
            residual_init=inits.residual,
            operands=config.operands,
            name="feedforward",
        )
        h_MD = self._enter("attention", x_MD)
        y_MD, written = attention(h_MD, context, cache)
        if config.parallel:
            h_MD = h_MD if config.shared_norm else self._enter("feedforward", x_MD)
            x_MD = self._leave("attention", x_MD, y_MD + feedforward(h_MD))
        else:
            x_MD = self._leave("attention", x_MD, y_MD)
            x_MD = self._leave("feedforward", x_MD, feedforward(self._enter("feedforward", x_MD)))
        return Here(name="stream")(spread_rows(x_MD)), written

    def _enter(self, name: str, x_MD: Array) -> Array:
        return x_MD if self.config.norm_place == "post" else self._norm(f"{name}_norm", x_MD)

    def _leave(self, name: str, x_MD: Array, y_MD: Array) -> Array:
        x_MD = x_MD + nn.Dropout(self.config.dropout, deterministic=self.deterministic)(y_MD)
        if self.config.norm_place == "pre":
            return x_MD
        return self._norm(f"{name}_norm" if self.config.norm_place == "post" else f"{name}_post_norm", x_MD)

    def _norm(self, name: str, x_MD: Array) -> Array:
        return self.config.make_norm(name)(x_MD)


class Transformer(nn.Module):
    """The whole decoder as a Linen module; `deterministic=False` needs the streams `dropout` and `positions`."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        inputs: Array,  # tokens [B, L], or numbers [B, L, inputs]
        positions: Array,
        segments_BL: Array | None = None,
        groups_BL: Array | None = None,
        cache: Cache | None = None,
        deterministic: bool = True,
    ) -> tuple[Outputs, Cache | None]:
        config = resolve(self.config)
        scheme, inits, dtype = config.scheme, config.initialisers, jnp.dtype(config.dtype)
        batch, length = inputs.shape[:2]
        if positions.ndim == 3 and not scheme.many_axes:
            raise ConfigError(f"model.positions {config.positions} takes one axis, got ids of shape {positions.shape}")
        slots = length if cache is None else cache.tokens["segments"].shape[1]
        positions = scheme.redraw(positions, slots, None if deterministic else self.make_rng("positions"))
        tables = Tables(tuple(scheme.shapes().items()), inits.embedding, name="positions")()

        if config.inputs is None:
            embedding = Embedding(config.vocabulary, config.width, dtype, inits.embedding, name="embedding")
            x_BLD = embedding(inputs)
        else:
            embedding = None
            x_BLD = Projection(config.width, config.bias, dtype, name="input")(inputs.reshape(batch * length, -1))
            x_BLD = x_BLD.reshape(batch, length, config.width)
        added_BLD = scheme.embedding(tables, positions)
        if added_BLD is not None:
            x_BLD = x_BLD + added_BLD.astype(dtype)
        x_BLD = nn.Dropout(config.embedding_dropout, deterministic=deterministic)(x_BLD)

        context = Context(positions, segments_BL, groups_BL, scheme.rotation(positions, slots), tables)
        x_BLD = spread_tokens(x_BLD)
        x_MD = x_BLD.reshape(batch * length, config.width)
        if cache is not None:
            # Behind the barrier, or XLA takes the sines and cosines anew in every layer.
            context = context._replace(rotation=jax.lax.optimization_barrier(context.rotation))
            context, tokens = look_back(context, cache, config.window)
            run: Callable[..., Any] = Block(config, parent=None).apply
            x_MD, written = through_layers(run, self.variables["params"]["blocks"], x_MD, cache, context)
        elif not stack_axes() or self.is_initializing():
            x_MD, _ = _stack(config, deterministic, self.is_initializing())(x_MD, None, context)
        else:
            # Not as rows, which cannot be divided along the batch and the length at once.
            x_MD = _spread_stack(config, self.variables["params"]["blocks"], x_BLD, context)
        if config.norm_place != "post":
            x_MD = config.make_norm("final_norm")(x_MD)

        # The head is a product too, which whoever asks for scores does.
        features_BLD = x_MD.reshape(batch, length, config.width).astype(config.operands or dtype)
        outputs = self._outputs(config, embedding, features_BLD, inits)
        if config.reference:
            outputs = Outputs(outputs.logits)
        return outputs, None if cache is None else config.layout.write(cache, written, tokens, outputs.features)

    def _outputs(
        self, config: Resolved, embedding: Embedding | None, features_BLD: Array, inits: layers.Initialisers
    ) -> Outputs:
        if embedding is not None and config.tied:
            # The rows of a t5 table have norm sqrt(D), where the kernel of a head would have columns of norm 1.
            scale = config.width**-0.5 if config.initialisation == "t5" else 1.0
            return Outputs(features_BLD * scale, embedding.table.T)
        head = Weights(config.vocabulary, config.head_bias, inits.kernel, name="head")
        return Outputs(features_BLD, *head(config.width))


class Tables(nn.Module):
    """The learned tables of a position scheme."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    table_init: layers.Initialiser

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        return {name: self.param(name, self.table_init, shape) for name, shape in self.shapes}


def _stack(config: Resolved, deterministic: bool, initialising: bool) -> nn.Module:
    """Return the blocks as one module whose parameters have a leading depth axis, unrolled or not."""
    # Drawing parameters is the same work in every layer: one copy of it compiles sooner.
    unroll = config.unroll and not initialising
    blocks = layers.stacked(_block(config), config.depth, unroll, in_axes=(0, nn.broadcast))
    return blocks(config, deterministic, name="blocks")


def _block(config: Resolved) -> type[nn.Module]:
    return layers.rematerialised(Block, config.remat, config.unroll)


def _spread_stack(config: Resolved, params: Params, x_BLD: Array, context: Context) -> Array:
    """Run the blocks on the devices that divide the depth and the length between them."""
    apply: Callable[..., Any] = _block(config)(config, parent=None).apply

    def run(params: Params, tables: Any, x_BLD: Array, context: Context) -> Array:
        context = _look_around(context._replace(tables=tables), config.window)
        x_MD, _ = jax.lax.scan(
            lambda x, layer: (apply({"params": layer}, x, None, context)[0], None),
            x_BLD.reshape(-1, config.width),
            params,
            unroll=config.unroll,
        )
        return x_MD.reshape(x_BLD.shape)

    return run_stack(run, params, context.tables, x_BLD, context._replace(tables=None))


def _look_around(context: Context, window: int | None) -> Context:
    """Return the context of the tokens of one device, which see those of all devices that divide the length."""
    length = context.positions.shape[1]
    positions_BT = gather_tokens(context.positions)
    if positions_BT.shape[1] == length:
        return context
    allowed = causal(first_slot(length) + jnp.arange(length), jnp.arange(positions_BT.shape[1]), window)
    if context.segments is not None:
        allowed = allowed & same_segment(context.segments, gather_tokens(context.segments))
    if context.groups is not None:
        allowed = allowed & open_groups(context.groups, gather_tokens(context.groups))
    return context._replace(past=Past(allowed, positions_BT))


def transformer_net(config: TransformerConfig) -> Net:
    """Return a transformer as pure functions; a configuration that makes no model is a ConfigError here."""
    resolved = resolve(config)
    module, layout = Transformer(resolved), resolved.layout
    run: Callable[..., Any] = module.apply

    @jax.jit
    def init(key: Key) -> Params:
        positions = config.positions
        axes = (positions.axes,) if isinstance(positions, Learned) and positions.separate else ()
        first = jnp.zeros((1, 1), jnp.int32) if config.inputs is None else jnp.zeros((1, 1, config.inputs))
        return module.init(key, first, jnp.zeros((1, 1, *axes), jnp.int32))["params"]

    def apply(params: Params, batch: Batch, key: Key | None = None, attention: bool = False) -> Outputs:
        names = ("dropout", "positions")
        rngs = {} if key is None else {name: jax.random.fold_in(key, i) for i, name in enumerate(names)}
        arguments = (batch.inputs, batch.positions, batch.segments, batch.groups)
        sown = ["intermediates"] if attention else False
        found = run({"params": params}, *arguments, deterministic=key is None, rngs=rngs, mutable=sown)
        if not attention:
            return found[0]
        (outputs, _), variables = found
        return outputs._replace(attention=variables["intermediates"]["blocks"]["attention"]["weights"][0])

    def cache(batch_size: int, length: int, room: int | None = None, groups: bool = False) -> Cache:
        return layout.empty(batch_size, length, length if room is None else room, groups)

    def reader(params: Params) -> Reader:
        ready = layout.ready(params)

        def read(batch: Batch, cache: Cache) -> tuple[Outputs, Cache]:
            return run({"params": ready}, batch.inputs, batch.positions, batch.segments, batch.groups, cache)

        return read

    return Net(init, apply, cache, layout.grow, reader)
