"""Every configuration of the library as a frozen dataclass: the one place for every default.

Imports nothing of JAX, so that recipes can be listed and parsed at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lm.strict import ConfigError, require_choice, require_positive


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
class Rotary:
    """Rotation of query and key pairs by an angle that grows with position (Su et al. 2021).

    `fraction` of each head is rotated, the rest is left alone.
    """

    base: float = 10_000.0
    fraction: float = 1.0


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
    activation: str = "gelu"  # relu, gelu, swiglu, geglu
    norm: str = "rms"  # rms, layer
    norm_place: str = "pre"  # pre, post, both
    norm_epsilon: float = 1e-6
    bias: bool = False
    tied: bool = True  # the head is the transposed embedding
    parallel: bool = False  # attention and feed-forward read the same input
    positions: Positions = field(default_factory=Rotary)
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


ModelConfig = TransformerConfig | RNNConfig | MLPConfig


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
class MeshConfig:
    """Sizes of the mesh axes; -1 takes what the others leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run. `data` is None where the task draws its batches inside the step."""

    task: Any
    model: ModelConfig
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    objective: str = "next_token"
    transforms: tuple[Any, ...] = ()
    data: Any = None
    name: str = ""


KINDS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        NoPositions, Learned, Sinusoidal, Rotary, ALiBi, RelativeBias, Randomised,
        TransformerConfig, RNNConfig, MLPConfig, OptimizerConfig, TrainConfig, MeshConfig, Recipe,
    )
}  # fmt: skip
