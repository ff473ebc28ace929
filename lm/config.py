"""Every configuration of the library as a frozen dataclass: the one place for every default.

Imports nothing of JAX, so that recipes can be listed and parsed at once. Those of models are in `lm.model_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lm.model_config import (  # noqa: F401 - all of them are handed on
    RESNETS,
    ALiBi,
    Learned,
    Llama3Scaling,
    LongRope,
    MLPConfig,
    ModelConfig,
    NoPositions,
    PositionalConfig,
    Positions,
    Randomised,
    ReaderConfig,
    RecurrentConvolutionConfig,
    RelativeBias,
    ResNetConfig,
    RNNConfig,
    Rotary,
    Sinusoidal,
    Tempered,
    TransformerConfig,
)  # fmt: skip
from lm.strict import ConfigError, require_choice, require_pattern, require_positive


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
    moments: str = "float32"  # the type in which they are kept: float32, bfloat16
    rounding: str = "nearest"  # of what is kept in bfloat16, moments and weights: nearest, stochastic
    offload: bool = False  # keep the moments in the memory of the host between steps

    def __post_init__(self):
        require_choice("optimizer.schedule", self.schedule, ("constant", "linear", "cosine", "wsd"))
        require_choice("optimizer.name", self.name, ("adamw", "sgd"))
        require_choice("optimizer.moments", self.moments, ("float32", "bfloat16"))
        require_choice("optimizer.rounding", self.rounding, ("nearest", "stochastic"))
        require_pattern("optimizer.decay_pattern", self.decay_pattern)
        require_positive("optimizer.learning_rate", self.learning_rate)


@dataclass(frozen=True)
class NextTokenLoss:
    """The weighted mean cross-entropy of the targets."""

    chunks: int | None = None  # in which logits are made in turn; None: 8 on CPU, else 4, from 8,192 tokens on

    def __post_init__(self):
        require_positive("objective.chunks", 1 if self.chunks is None else self.chunks)


@dataclass(frozen=True)
class VerifierLoss:
    """Whether a solution is right, judged at every token, and `auxiliary` times the next token (Liu et al. 2023)."""

    auxiliary: float = 1.0


@dataclass(frozen=True)
class ConsistencyLoss:
    """The next token, and `weight` times how far the logits move behind other text (Wen et al. 2023)."""

    weight: float = 0.3


@dataclass(frozen=True)
class SharpenedLoss:
    """The next token, and `strength` times how spread the attention of a transformer is (Liu et al. 2023)."""

    strength: float = 0.1
    measure: str = "entropy"  # of each row of attention: entropy, l2 or linf (a norm, negated)

    def __post_init__(self):
        require_choice("objective.measure", self.measure, ("entropy", "l2", "linf"))


@dataclass(frozen=True)
class HingeLoss:
    """By how much the target's score fails to exceed all others by 1."""


@dataclass(frozen=True)
class SquaredLoss:
    """The square by which a number differs from the one asked for."""


ObjectiveConfig = NextTokenLoss | VerifierLoss | ConsistencyLoss | SharpenedLoss | HingeLoss | SquaredLoss

OBJECTIVES: Mapping[str, type[ObjectiveConfig]] = MappingProxyType(
    {
        "next_token": NextTokenLoss,
        "verifier": VerifierLoss,
        "consistency": ConsistencyLoss,
        "sharpened": SharpenedLoss,
        "hinge": HingeLoss,
        "squared": SquaredLoss,
    }
)


@dataclass(frozen=True)
class Guard:
    """Take no step whose loss or gradient is not finite, and end the run after `budget` such steps in a row.

    The norm of a gradient spikes where it is more than `spike` times its running mean. That is off: a net at rest (a
    hinge loss that is met, a plateau) may rightly leave it with a jump, and a clipped gradient is harmless at any norm.
    """

    budget: int = 10
    spike: float | None = None  # None: a finite gradient is never too large
    warmup: int = 100  # good steps behind the running mean before a norm can spike
    rollback: bool = False  # once, in place of the end: back to the newest checkpoint, and on behind the bad data

    def __post_init__(self):
        require_positive("train.guard.budget", self.budget)
        if self.spike is not None and not self.spike > 1:
            raise ConfigError(f"train.guard.spike must be greater than 1, got {self.spike}")
        if self.warmup < 0:
            raise ConfigError(f"train.guard.warmup must not be negative, got {self.warmup}")


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
    guard: Guard | None = field(default_factory=Guard)  # None: every step is taken, and a broken one ends the run

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


@dataclass(frozen=True)
class Bfloat16Weights:
    """Weights kept in bfloat16, in half the memory; `optimizer.rounding` says how steps to them are rounded."""

    pattern: str = r""  # paths of the parameters that are kept so; all

    def __post_init__(self):
        require_pattern("transforms.pattern", self.pattern)


TransformConfig = MajorityKernels | BlockScales | Looped | Bfloat16Weights


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
    """Sizes of the mesh axes; -1 takes what the others leave. Between slices of devices only `data` is split."""

    data: int = -1  # the batch
    fsdp: int = 1  # the batch, and every parameter while nobody multiplies by it
    tensor: int = 1  # heads, feed-forward units and vocabulary
    sequence: int = 1  # the length of each example; each device gathers the keys and values of all
    pipeline: int = 1  # the depth, in stages that hand microbatches on


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
    objective: Any = field(default_factory=NextTokenLoss)  # an ObjectiveConfig; its bare name stands for its defaults
    transforms: tuple[Any, ...] = ()  # of TransformConfig or callables, from the model outwards
    growth: Growth | None = None
    data: Any = None
    weights: str | None = None
    name: str = ""

    def __post_init__(self):
        if isinstance(self.objective, str):
            require_choice("objective", self.objective, tuple(OBJECTIVES))
            object.__setattr__(self, "objective", OBJECTIVES[self.objective]())


KINDS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        NoPositions, Learned, Sinusoidal, Rotary, Llama3Scaling, LongRope, ALiBi, RelativeBias, Randomised,
        Tempered, TransformerConfig, RNNConfig, ReaderConfig, PositionalConfig, MLPConfig,
        RecurrentConvolutionConfig, ResNetConfig,
        OptimizerConfig, Guard, TrainConfig, MeshConfig,
        NextTokenLoss, VerifierLoss, ConsistencyLoss, SharpenedLoss, HingeLoss, SquaredLoss, MajorityKernels,
        BlockScales, Looped, Bfloat16Weights, Growth, Recipe,
    )
}  # fmt: skip
