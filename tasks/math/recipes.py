"""Recipes of TinyGSM: small ones for a CPU, and the sheet of the paper at full scale."""

from __future__ import annotations

from dataclasses import replace

from lm.config import Growth, MajorityKernels, OptimizerConfig, Recipe, Rotary, TrainConfig, TransformerConfig
from tasks.math.data import MathData
from tasks.math.tinygsm import SPLITS, TinyGSM


def tinygsm_cpu() -> Recipe:
    """A decoder of 3 layers, 724,864 parameters, writes programs for problems of 1-4 steps.

    Liu et al. 2023. 1,000 steps of 16 windows, median of three seeds: greedy execution accuracy 95.0 % (92.2 to
    95.4) on 500 held-out problems and 91.4 % (90.6 to 94.0) on 500 with new skeletons. A run takes 3 min 38 s
    on 2 CPU cores. The step kinds differ: with seed 0, 68 % of the problems with a "fraction" step are right,
    and all of those with "saving".
    python scripts/train.py tinygsm_cpu
    """
    return Recipe(
        name="tinygsm_cpu",
        task=TinyGSM(),
        data=MathData(),
        model=TransformerConfig(vocabulary=1024, depth=3, width=128, heads=4, activation="swiglu"),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=100, beta2=0.98, final_fraction=0.01),
        train=TrainConfig(steps=1000, batch_size=16),
    )


def tinygsm_grown_cpu() -> Recipe:
    """The same decoder grown from 1 to 3 layers by stacking, with majority kernels of 3 copies on the way.

    Agarwal et al. 2024 and Mazzawi et al. 2024 on the task of Liu et al. 2023. The rate stays at its peak until
    the last stage, which is half of the steps. Twice the steps of tinygsm_cpu: after as many (seed 0) growth alone
    solves 80.0 % of the held-out problems, with copies begun as one draw 67.6 %, with independent ones 20.0 %.
    python scripts/train.py tinygsm_grown_cpu
    """
    plain = tinygsm_cpu()
    return replace(
        plain,
        name="tinygsm_grown_cpu",
        optimizer=replace(plain.optimizer, schedule="wsd", decay_fraction=0.5),
        train=replace(plain.train, steps=2000),
        growth=Growth(depths=(1, 2, 3)),
        transforms=(MajorityKernels(factor=3, initialisation="shared"),),
    )


def tinygsm_varied_cpu() -> Recipe:
    """A decoder of about a million parameters on the full grammar: 1-6 steps, all five test sets.

    Liu et al. 2023. 1,500 steps, median of three seeds, greedy: 78.0 % of the held-out problems, 79.7 % with new
    skeletons, 67.0 % about a new theme, 77.7 % with a distractor each, 18.3 % of those with 7 or 8 steps.
    python scripts/train.py tinygsm_varied_cpu
    """
    plain = tinygsm_cpu()
    return replace(
        plain,
        name="tinygsm_varied_cpu",
        task=TinyGSM(max_steps=6, distractor=0.35, grammar="full", splits=SPLITS, test_count=300),
        data=MathData(problems=64_000, vocabulary=2048),
        model=replace(plain.model, vocabulary=2048, depth=4),
        train=replace(plain.train, steps=1500),
    )


def tinygsm_125m_full() -> Recipe:
    """The decoder of 125M parameters, from scratch: 12 layers of width 768, blocks as in Phi-1.5.

    Liu et al. 2023, section 3 of the paper: batch 1,024, at most 20,000 steps; rates and lengths are ours.
    Published GSM8K sets join by --data.gsm8k DIR and --data.programs DIR, TinyGSM as released.
    python scripts/train.py tinygsm_125m_full
    """
    varied = tinygsm_varied_cpu()
    return replace(
        varied,
        name="tinygsm_125m_full",
        task=replace(varied.task, test_count=1000),
        data=replace(varied.data, problems=5_000_000, vocabulary=16_384, length=512, question_weight=0.1),
        model=TransformerConfig(
            vocabulary=16_384, depth=12, width=768, heads=12, norm="layer", norm_epsilon=1e-5, bias=True, parallel=True,
            tied=False, positions=Rotary(fraction=0.5),
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, schedule="linear", warmup_steps=500, final_fraction=0.1, weight_decay=0.1
        ),
        train=TrainConfig(steps=20_000, batch_size=1024, accumulate=8, save_every=1000, keep=20, log_every=100),
    )  # fmt: skip


def tinygsm_350m_full() -> Recipe:
    """The decoder of 350M parameters: 20 layers of width 1,024.

    Liu et al. 2023.
    python scripts/train.py tinygsm_350m_full
    """
    small = tinygsm_125m_full()
    return replace(
        small, name="tinygsm_350m_full", model=replace(small.model, depth=20, width=1024, heads=16, remat="full")
    )


def tinygsm_1300m_full() -> Recipe:
    """The decoder of 1.3B parameters, the shape of Phi-1.5: 24 layers of width 2,048.

    Liu et al. 2023. Wants several devices: --mesh.fsdp 8.
    python scripts/train.py tinygsm_1300m_full
    """
    small = tinygsm_125m_full()
    return replace(
        small,
        name="tinygsm_1300m_full",
        model=replace(small.model, depth=24, width=2048, heads=32, remat="full"),
        optimizer=replace(small.optimizer, learning_rate=2e-4),
        train=replace(small.train, accumulate=32),
    )
