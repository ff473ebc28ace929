"""Every configuration of the library as a frozen dataclass: the one place for every default.

Imports nothing of JAX, so that recipes can be listed and parsed at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from lm.strict import ConfigError, require_choice, require_pattern, require_positive


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
class TransformerConfig:
    """A decoder transformer. None means: derived (kv_heads = heads, head_width = width / heads,
    feedforward = 4 width, or 8/3 width rounded up to a multiple of 8 for gated activations)."""

    vocabulary: int = 256
    depth: int = 2
    width: int = 128
    heads: int = 4
    kv_heads: int | None = None
    head_width: int | None = None
    feedforward: int | None = None
    activation: str = "gelu"  # relu, gelu (by tanh), exact_gelu (by erf), swiglu, geglu
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
    dropout: float = 0.0  # on the output of attention and feed-forward
    embedding_dropout: float = 0.0
    dtype: str = "auto"  # float32 on CPU, bfloat16 compute on accelerators; or float32, bfloat16
    remat: bool = False
    unroll: bool | None = None  # None: unrolled on CPU up to 8 layers, scanned elsewhere
    initialisation: str = "scaled"  # scaled: N(0, 0.02), output projections / sqrt(2 depth); lecun; t5


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
    """One layer of attention without residual or positions, a norm, a feed-forward layer (Wen et al. 2023).

    What it predicts depends on the mean of what it read alone, which theorems on bracket languages are about.
    """

    vocabulary: int = 24
    depth: int = 1  # no other is built: the theorems are about one layer
    width: int = 50
    dtype: str = "auto"


@dataclass(frozen=True)
class MLPConfig:
    """Embedded (or raw, with vocabulary None) inputs, flattened, through equal hidden layers, to `outputs`.

    Predicts one target per example: outputs are [B, 1, outputs].
    """

    inputs: int = 2  # input length L
    outputs: int = 97
    vocabulary: int | None = 97  # None: inputs are real numbers
    embedding: int = 128  # width of each embedded input
    separate: bool = True  # one embedding table an input position
    width: int = 128
    depth: int = 1  # hidden layers after the first projection's own
    activation: str = "relu"
    bias: bool = True
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

ModelConfig = TransformerConfig | RNNConfig | ReaderConfig | MLPConfig | ResNetConfig


@dataclass(frozen=True)
class OptimizerConfig:
    """How gradients become updates. Every float may be a traced array, so that a sweep can map over it."""

    name: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "cosine"  # constant, linear, cosine, wsd
    warmup_steps: int = 0
    decay_fraction: float = 0.2  # share of the steps in the final decay; used by wsd only
    final_fraction: float = 0.1  # last learning rate over the peak
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decay_pattern: str = r"(kernel|embedding|table)$"  # paths of parameters that decay
    clip: float | None = 1.0  # global gradient norm; None leaves gradients alone

    def __post_init__(self):
        require_choice("optimizer.schedule", self.schedule, ("constant", "linear", "cosine", "wsd"))
        require_choice("optimizer.name", self.name, ("adamw", "sgd"))
        require_pattern("optimizer.decay_pattern", self.decay_pattern)
        require_positive("optimizer.learning_rate", self.learning_rate)


@dataclass(frozen=True)
class TrainConfig:
    """How long, how much at a time, and how often to look, save and speak."""

    steps: int = 1000
    batch_size: int = 64
    accumulate: int = 1  # micro-batches a step; the batch is split, not multiplied
    steps_per_dispatch: int = 8  # steps in one compiled call
    seed: int = 0
    ema: float | None = None  # decay of the moving average of the weights
    log_every: int = 50
    evaluate_every: int | None = None  # None: at the end only
    save_every: int = 500
    keep: int = 3  # checkpoints kept

    def __post_init__(self):
        for name in ("steps", "batch_size", "accumulate", "steps_per_dispatch", "log_every", "save_every", "keep"):
            require_positive(f"train.{name}", getattr(self, name))
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"train.batch_size {self.batch_size} is not a multiple of train.accumulate {self.accumulate}"
            )


@dataclass(frozen=True)
class MajorityKernels:
    """Train `factor` copies of each kernel, mixed at random in every step, and keep their mean (Mazzawi et al. 2024).

    The weights of the copies are drawn by `law`: uniform (numbers from [0, 1] over their sum), dirichlet (with
    `concentration`), choice (one copy at a time), mean (no randomness, a control). Where a batch is split by
    `train.accumulate` every part has a draw of its own.
    """

    factor: int = 3
    law: str = "uniform"
    concentration: float = 1.0  # of the Dirichlet law; smaller is more random
    share: str = "layer"  # one draw a layer, an output channel ("channel"), or for all layers alike ("model")
    pattern: str = r"kernel$"  # paths of the parameters that are expanded
    initialisation: str = "independent"  # independent, scaled (times sqrt(factor)), shared (one draw and 1 % noise)

    def __post_init__(self):
        require_positive("transforms.factor", self.factor)
        require_positive("transforms.concentration", self.concentration)
        require_choice("transforms.law", self.law, ("uniform", "dirichlet", "choice", "mean"))
        require_choice("transforms.share", self.share, ("layer", "channel", "model"))
        require_choice("transforms.initialisation", self.initialisation, ("independent", "scaled", "shared"))
        require_pattern("transforms.pattern", self.pattern)


@dataclass(frozen=True)
class BlockScales:
    """A trainable factor on what each block adds to the residual stream (Agarwal et al. 2024, the scalar beta)."""

    initial: float = 1.0
    pattern: str = r"(output|down)/(kernel|bias|scale)$"  # paths of the parameters that write to the residual stream

    def __post_init__(self):
        require_pattern("transforms.pattern", self.pattern)


@dataclass(frozen=True)
class Looped:
    """Only `layers` distinct layers, applied in turn until the model's depth is reached (Saunshi et al. 2025)."""

    layers: int = 1

    def __post_init__(self):
        require_positive("transforms.layers", self.layers)


TransformConfig = MajorityKernels | BlockScales | Looped


@dataclass(frozen=True)
class Growth:
    """Train at each of `depths` in turn; the last one is the model's own (Agarwal et al. 2024; Saunshi et al. 2024).

    New layers go on `top` or, as a block, right behind the `middle` one. They are a copy of the layers below
    them or freshly drawn (`random`); what they add to the residual stream is multiplied by `scale`, so that 0
    leaves the function as it was. Doubling the stack is a depth twice the one before.
    """

    depths: tuple[int, ...]
    place: str = "top"  # top, middle
    fill: str = "copy"  # copy, random
    scale: float = 1.0
    scaled: str = r"(output|down)/(kernel|bias|scale)$"  # paths of the parameters that `scale` multiplies
    schedule: str = "proportional"  # to i ** alpha in stage i; doubling (2 ** i); explicit (`steps`)
    alpha: float = 1.0  # 0 makes all stages equally long
    steps: tuple[int, ...] = ()  # length of each stage where the schedule is explicit
    moments: str = "copy"  # optimizer moments at a growth: copy (of new random layers: zero), reset (of all)
    rewarm_steps: int = 0  # the learning rate rises again from zero after each growth

    def __post_init__(self):
        require_choice("growth.place", self.place, ("top", "middle"))
        require_choice("growth.fill", self.fill, ("copy", "random"))
        require_choice("growth.schedule", self.schedule, ("proportional", "doubling", "explicit"))
        require_choice("growth.moments", self.moments, ("copy", "reset"))
        require_pattern("growth.scaled", self.scaled)
        for name in ("alpha", "rewarm_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"growth.{name} must not be negative, got {getattr(self, name)}")
        if not self.depths or any(a >= b for a, b in zip((0, *self.depths), self.depths, strict=False)):
            raise ConfigError(f"growth.depths must be positive and rise, got {self.depths}")
        if len(self.steps) != (len(self.depths) if self.schedule == "explicit" else 0):
            raise ConfigError(
                f"growth.steps must have one length a depth where growth.schedule is explicit and none elsewhere, "
                f"got {self.steps} for {self.depths} and {self.schedule}"
            )


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; -1 takes what the others leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run. `data` is None where the task draws its batches inside the step.

    `weights` names a folder of Hugging Face or a .gguf file that training begins with, instead of a draw.
    """

    task: Any
    model: ModelConfig
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    objective: str = "next_token"
    transforms: tuple[Any, ...] = ()  # of TransformConfig or callables, from the model outwards
    growth: Growth | None = None
    data: Any = None
    weights: str | None = None
    name: str = ""


KINDS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        NoPositions, Learned, Sinusoidal, Rotary, Llama3Scaling, LongRope, ALiBi, RelativeBias, Randomised,
        TransformerConfig, RNNConfig, ReaderConfig, MLPConfig, ResNetConfig, OptimizerConfig, TrainConfig, MeshConfig,
        MajorityKernels, BlockScales, Looped, Growth, Recipe,
    )
}  # fmt: skip
