"""Configurations of positions and networks, as frozen dataclasses: the one place for every default of a model.

`lm.config` hands them on beside those of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from lm.strict import ConfigError


@dataclass(frozen=True)
class NoPositions:
    """No positional signal."""


@dataclass(frozen=True)
class Learned:
    """A learned table added to the token embedding, one row a position id (Vaswani et al. 2017).

    With position ids [L, A] the A looked-up rows are added; axes share the table unless `separate`.
    """

    rows: int = 1024
    separate: bool = False
    axes: int = 1  # position axes; only separate tables need to know


@dataclass(frozen=True)
class Sinusoidal:
    """Fixed sines and cosines added to the token embedding (Vaswani et al. 2017, section 3.5)."""

    base: float = 10_000.0


@dataclass(frozen=True)
class Llama3Scaling:
    """Rotation of the slow pairs slowed down by `factor` (Grattafiori et al. 2024, Llama 3.1).

    Slow are pairs with fewer than `low` turns in `original` positions; those with more than `high` stay as they are.
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192


@dataclass(frozen=True)
class LongRope:
    """Each pair slowed down by a divisor of its own: `short`, or `long` beyond `original` slots (Ding et al. 2024).

    Cosines and sines are stretched for texts of up to `longest` positions. Slots are those of the whole call, so that
    a cache that can hold a long text uses `long` from its first token.
    """

    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()
    original: int = 4096
    longest: int = 131_072


@dataclass(frozen=True)
class Rotary:
    """Rotation of query and key pairs by an angle that grows with position (Su et al. 2021).

    `fraction` of each head is rotated, the rest is left alone.
    """

    base: float = 10_000.0
    fraction: float = 1.0
    scaling: Llama3Scaling | LongRope | None = None


@dataclass(frozen=True)
class ALiBi:
    """A penalty on scores that grows linearly with distance, one slope a head (Press et al. 2022)."""


@dataclass(frozen=True)
class RelativeBias:
    """A learned bias per head and logarithmic bucket of distance (Raffel et al. 2020)."""

    buckets: int = 32
    longest: int = 128


@dataclass(frozen=True)
class Randomised:
    """Redraw positions as a random ordered subset of 0..longest-1, then apply `inner` (Ruoss et al. 2023)."""

    inner: Learned | Sinusoidal | Rotary | ALiBi | RelativeBias = field(default_factory=Rotary)
    longest: int = 2048


Positions = NoPositions | Learned | Sinusoidal | Rotary | ALiBi | RelativeBias | Randomised


@dataclass(frozen=True)
class Tempered:
    """Scores multiplied by what grows with the number n of keys that a query sees, its position from 0 and one more.

    By ln(n + 1) / ln(length), fixed and 1 at n = length - 1, or, without a `length`, by 1 + tau ln n with a tau that
    each layer learns. Over n keys a softmax needs score gaps of the order of ln n (Awasthi and Gupta 2023).
    """

    length: int | None = None

    def __post_init__(self):
        if self.length is not None and self.length < 2:
            raise ConfigError(f"model.tempered.length must be at least 2, got {self.length}")


@dataclass(frozen=True)
class TransformerConfig:
    """A decoder transformer. None means: derived (kv_heads = heads, head_width = width / heads,
    feedforward = 4 width, or 8/3 width rounded up to a multiple of 8 for gated activations)."""

    vocabulary: int = 256
    inputs: int | None = None  # numbers in each input, projected in place of an embedding; None: inputs are tokens
    depth: int = 2
    width: int = 128
    heads: int = 4
    kv_heads: int | None = None
    head_width: int | None = None
    feedforward: int | None = None
    activation: str = "gelu"  # relu, gelu (by tanh), exact_gelu (by erf), swiglu, geglu, reglu
    norm: str = "rms"  # rms, layer
    norm_place: str = "pre"  # pre, post, both
    norm_epsilon: float = 1e-6
    bias: bool = False
    qkv_bias: bool | None = None  # of the query, key and value projections; None: as bias
    head_bias: bool | None = None  # of a head that is not tied; None: as bias
    tied: bool = True  # the head is the transposed embedding
    parallel: bool = False  # attention and feed-forward read the same input
    shared_norm: bool = True  # in a parallel block both read one norm of it; False: each has its own
    positions: Positions = field(default_factory=Rotary)
    window: int | None = None  # tokens a query sees, itself included; None: all up to itself
    tempered: Tempered | None = None  # None: scores do not depend on how many keys there are
    dropout: float = 0.0  # on the output of attention and feed-forward
    embedding_dropout: float = 0.0
    attention: str = "auto"  # blocked on CPU, splash on TPU, cudnn on GPU, and plain where that does not fit; or a name
    dtype: str = "auto"  # float32 on CPU, bfloat16 compute on accelerators; or float32, bfloat16
    products: str | None = None  # the type of their operands, their sums are float32: float32, bfloat16; None: as dtype
    reference: bool = False  # plain forms of everything on every platform: slower, and differentiable forwards too
    remat: str | bool = "none"  # what the backward pass computes again: none, dots, attention, full; or False, True
    unroll: bool | None = None  # None: unrolled on CPU up to 8 layers, scanned elsewhere
    initialisation: str = "scaled"  # scaled: N(0, 0.02), output projections / sqrt(2 depth); lecun; t5

    def __post_init__(self):
        if isinstance(self.remat, bool):  # as recipes had it before there were policies
            object.__setattr__(self, "remat", "full" if self.remat else "none")


@dataclass(frozen=True)
class RNNConfig:
    """A stack of LSTM or GRU layers with an embedding and a head."""

    vocabulary: int = 256
    cell: str = "lstm"  # lstm, gru
    depth: int = 1
    width: int = 128
    tied: bool = False
    dropout: float = 0.0
    dtype: str = "auto"


@dataclass(frozen=True)
class ReaderConfig:
    """Layers of attention and feed-forward over real features, without norms before attention (Wen et al. 2023).

    Without a residual stream one layer predicts from the mean of what it read alone, which theorems on bracket
    languages are about.
    """

    vocabulary: int = 8  # tokens that are predicted
    depth: int = 1
    width: int = 50  # features may be fewer
    residual: bool = False
    dtype: str = "auto"


@dataclass(frozen=True)
class PositionalConfig:
    """Attention over a list of numbers whose weights depend on places alone, or its control (Back De Luca et al. 2025).

    Every place has a query and a key of its own, so that the length of the list is fixed.
    """

    vocabulary: int = 1  # numbers that are predicted at each place
    inputs: int = 1  # numbers that are read at each place
    places: int = 9  # the numbers of the list and one to work in
    attention: str = "positional"  # positional; by what stands there: standard, rotary
    depth: int = 4
    width: int = 64
    heads: int = 2
    feedforward: int = 64
    dtype: str = "float32"


@dataclass(frozen=True)
class MLPConfig:
    """Embedded (or raw, with vocabulary None) inputs, flattened, through equal hidden layers, to `outputs`.

    Predicts one target per example: outputs are [B, 1, outputs], or [B, 1, 2] from one output.
    """

    inputs: int = 2  # input length L
    outputs: int = 97  # 1: a score that answer 1 has beyond answer 0
    vocabulary: int | None = 97  # None: inputs are real numbers
    embedding: int | None = 128  # width of each embedded input; None: ids 0 and 1 are the numbers 1 and -1
    separate: bool = True  # one embedding table an input position
    first: int | None = None  # width of one more layer before the others; None: there is none
    sparse: int | None = None  # inputs that each neuron of the lowest layer begins with, of weight 1; None: all, drawn
    initialisation: str = "normal"  # normal: N(0, 1 / fan in), biases 0; uniform: all within 1 / sqrt(fan in)
    width: int = 128
    depth: int = 1  # hidden layers after the first projection's own
    activation: str = "relu"
    bias: bool = True
    dtype: str = "auto"


@dataclass(frozen=True)
class RecurrentConvolutionConfig:
    """A convolution over the places of a text, iterated: its weights depend on neither place nor iteration."""

    vocabulary: int = 2
    width: int = 32
    depth: int = 1  # no other is built: what is deep here is the iteration
    reach: int = 3  # places that a convolution reads; odd
    iterations: float = 0.5  # for each token of the text
    dtype: str = "auto"


@dataclass(frozen=True)
class ResNetConfig:
    """A residual network on images [H, W, channels], with one prediction an image.

    Group g works on width * widen * 2 ** g channels; a bottleneck block gives out four times as many.
    """

    classes: int = 10
    channels: int = 1  # of an image: 1 grey, 3 colour
    depth: int | tuple[int, ...] = 2  # blocks of each group behind its first one; a tuple has one number a group
    groups: int = 3  # the image is halved between them
    width: int = 16
    widen: int = 1
    block: str = "basic"  # basic (3x3, 3x3), bottleneck (1x1, 3x3, 1x1)
    stem: str = "cifar"  # cifar: one 3x3 convolution; imagenet: 7x7 and a pool, both of stride 2
    preactivation: bool = False  # norm and activation before each convolution, nothing after the sum
    shortcut: str = "projection"  # where the shape changes: projection (1x1 convolution), pad (zero channels)
    norm: str = "group"  # group, batch
    norm_groups: int = 8  # groups of channels; used by the group norm only
    momentum: float = 0.9  # of the running statistics; used by the batch norm only
    dropout: float = 0.0  # before the last convolution of a block
    dtype: str = "auto"


_IMAGENET = ResNetConfig(classes=1000, channels=3, groups=4, width=64, stem="imagenet", norm="batch")
_CIFAR = ResNetConfig(channels=3, shortcut="pad", norm="batch")
_WIDE = ResNetConfig(channels=3, depth=3, widen=10, preactivation=True, norm="batch")

# The published networks: resnet18 to 50 of ImageNet, resnet20 to 56 of CIFAR (He et al. 2015), wide ones of CIFAR
# (Zagoruyko and Komodakis 2016).
RESNETS: Mapping[str, ResNetConfig] = MappingProxyType(
    {
        "resnet18": replace(_IMAGENET, depth=1),
        "resnet34": replace(_IMAGENET, depth=(2, 3, 5, 2)),
        "resnet50": replace(_IMAGENET, depth=(2, 3, 5, 2), block="bottleneck"),
        "resnet20": replace(_CIFAR, depth=2),
        "resnet32": replace(_CIFAR, depth=4),
        "resnet56": replace(_CIFAR, depth=8),
        "wrn_28_10": _WIDE,
        "wrn_16_4": replace(_WIDE, depth=1, widen=4),
    }
)

ModelConfig = (
    TransformerConfig
    | RNNConfig
    | ReaderConfig
    | PositionalConfig
    | MLPConfig
    | RecurrentConvolutionConfig
    | ResNetConfig
)
