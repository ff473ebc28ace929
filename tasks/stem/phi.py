"""The Phi models at full scale: the shapes and schedules of the sheets, on the text and problems that are at hand."""

from __future__ import annotations

from dataclasses import replace

from lm.config import MeshConfig, OptimizerConfig, Recipe, Rotary, TrainConfig, TransformerConfig
from tasks.stem.text import stem_phases_cpu


def phi3_mini_full() -> Recipe:
    """The decoder of phi-3-mini, 3,821,079,552 parameters: 32 layers of width 3,072, context 4,096.

    Abdin et al. 2024 (arXiv 2404.14219): general text first, then filtered text and problems. The batch and the
    rates are not published; those of phi-4 stand in. 3.3T tokens are 786,800 steps. Wants a slice of a pod:
    every parameter is split over all devices.
    python scripts/train.py phi3_mini_full
    """
    small = stem_phases_cpu()
    return replace(
        small,
        name="phi3_mini_full",
        data=replace(small.data, vocabulary=32_064, length=4096, problems=5_000_000),
        model=TransformerConfig(
            vocabulary=32_064, depth=32, width=3072, heads=32, feedforward=8192, activation="swiglu",
            norm_epsilon=1e-5, tied=False, window=2047, remat="full",
        ),
        optimizer=OptimizerConfig(
            learning_rate=3e-4, schedule="linear", warmup_steps=2000, final_fraction=0.0, weight_decay=0.1
        ),
        train=TrainConfig(steps=786_800, batch_size=1024, save_every=1000, log_every=100),
        mesh=MeshConfig(data=1, fsdp=-1),
    )  # fmt: skip


def phi4_full() -> Recipe:
    """The decoder of phi-4, 14,659,507,200 parameters: 40 layers of width 5,120, four query heads a key head.

    Abdin et al. 2024 (arXiv 2412.08905): batches of 5,760 windows of 4,096 tokens, peak rate 3e-4 with linear decay,
    10T tokens in 424,000 steps. The rotary base is that of pre-training; it rises with the context later.
    python scripts/train.py phi4_full
    """
    mini = phi3_mini_full()
    return replace(
        mini,
        name="phi4_full",
        data=replace(mini.data, vocabulary=100_352),
        model=replace(
            mini.model, vocabulary=100_352, depth=40, width=5120, heads=40, kv_heads=10, feedforward=17_920,
            window=None, positions=Rotary(base=10_000.0),
        ),
        train=replace(mini.train, steps=424_000, batch_size=5760),
    )  # fmt: skip
