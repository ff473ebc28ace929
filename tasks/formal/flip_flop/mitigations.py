"""What has been tried against attention glitches, each as one change to the baseline (Liu et al. 2023, section 5).

The small form is one attention layer on the automaton, as in `flip_flop_attention_cpu`; the full form is the paper's
canonical transformer on strings of 512 tokens. Figures of the small recipes are glitch rates of one seed, on 300,000
reads each; the baseline's are 5.7 % at 98 % ignores and 0.52 % at 10 %, with large differences between seeds. Each
takes some 40 s on a CPU core, two layers 60 s, twice the width 80 s; a full one ten minutes on an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from lm.config import ALiBi, Recipe, Rotary, SharpenedLoss, Sinusoidal
from lm.strict import override
from tasks.formal.flip_flop.language import flip_flop_attention_cpu, flip_flop_cpu, flip_flop_full

RARE = (90, 98, 10)  # percentages of ignores; the appendix of the paper has 80 for 90


def flip_flop_rare_cpu() -> Recipe:
    """Rare strings in training: each has 90, 98 or 10 % ignores.

    Liu et al. 2023, result R4, by far the best of all: no error at 98, 10, 90 and 80 %.
    python scripts/train.py flip_flop_rare_cpu
    """
    return override(flip_flop_attention_cpu(), {"name": "flip_flop_rare_cpu", "task.ignore": RARE})


def flip_flop_decay_cpu() -> Recipe:
    """Ten times the weight decay.

    3.1 % at 98 % ignores, 0.70 % at 10 %.
    python scripts/train.py flip_flop_decay_cpu
    """
    return override(flip_flop_attention_cpu(), {"name": "flip_flop_decay_cpu", "optimizer.weight_decay": 1.0})


def flip_flop_dropout_cpu() -> Recipe:
    """Dropout of 0.1 on what attention and feed-forward layers add.

    5.3 % at 98 % ignores, 0.25 % at 10 %.
    python scripts/train.py flip_flop_dropout_cpu
    """
    return override(flip_flop_attention_cpu(), {"name": "flip_flop_dropout_cpu", "model.dropout": 0.1})


def flip_flop_embedding_dropout_cpu() -> Recipe:
    """Dropout of 0.5 on the embedding, which helped sparse strings most in the paper (R6).

    4.0 % at 98 % ignores, 0.38 % at 10 %, but 0.14 % at 80 % too.
    python scripts/train.py flip_flop_embedding_dropout_cpu
    """
    changed = {"name": "flip_flop_embedding_dropout_cpu", "model.embedding_dropout": 0.5}
    return override(flip_flop_attention_cpu(), changed)


def flip_flop_sharpened_cpu() -> Recipe:
    """A tenth of the entropy of attention added to the loss (R6).

    2.2 % at 98 % ignores, 1.1 % at 10 %; a strength of 1 does harm.
    python scripts/train.py flip_flop_sharpened_cpu
    """
    changed = {"name": "flip_flop_sharpened_cpu", "objective": SharpenedLoss(strength=0.1)}
    return override(flip_flop_attention_cpu(), changed)


def flip_flop_deep_cpu() -> Recipe:
    """Two layers.

    6.8 % at 98 % ignores, 0.39 % at 10 %.
    python scripts/train.py flip_flop_deep_cpu
    """
    return override(flip_flop_attention_cpu(), {"name": "flip_flop_deep_cpu", "model.depth": 2})


def flip_flop_wide_cpu() -> Recipe:
    """Twice the width.

    2.1 % at 98 % ignores, 1.5 % at 10 %.
    python scripts/train.py flip_flop_wide_cpu
    """
    return override(flip_flop_attention_cpu(), {"name": "flip_flop_wide_cpu", "model.width": 128})


def flip_flop_sinusoidal_cpu() -> Recipe:
    """Fixed sines for positions, which helped dense strings in the paper (R6).

    9.5 % at 98 % ignores, 0.007 % at 10 %.
    python scripts/train.py flip_flop_sinusoidal_cpu
    """
    return override(flip_flop_attention_cpu(), {"name": "flip_flop_sinusoidal_cpu", "model.positions": Sinusoidal()})


def flip_flop_alibi_cpu() -> Recipe:
    """Scores that fall with distance (ALiBi), which helped dense strings in the paper (R6).

    Not here: 2.0 % at 98 % ignores, 1.8 % at 10 %, and 1.1 % at 80 %, where it has not converged.
    python scripts/train.py flip_flop_alibi_cpu
    """
    return override(flip_flop_attention_cpu(), {"name": "flip_flop_alibi_cpu", "model.positions": ALiBi()})


def flip_flop_rotary_cpu() -> Recipe:
    """Rotary positions, which helped dense strings in the paper (R6).

    3.3 % at 98 % ignores, 0.003 % at 10 %.
    python scripts/train.py flip_flop_rotary_cpu
    """
    return override(flip_flop_attention_cpu(), {"name": "flip_flop_rotary_cpu", "model.positions": Rotary()})


def flip_flop_lstm_full() -> Recipe:
    """The paper's LSTM, examined on as many reads as in the paper.

    About six minutes on one CPU core, most of them for the sparse reads.
    python scripts/train.py flip_flop_lstm_full
    """
    return override(flip_flop_cpu(), {"name": "flip_flop_lstm_full", "task.test_reads": 354_000})


def flip_flop_rare_full() -> Recipe:
    """The canonical transformer with rare strings in training (R4; 6 of 25 runs had no error).

    python scripts/train.py flip_flop_rare_full
    """
    return override(flip_flop_full(), {"name": "flip_flop_rare_full", "task.ignore": RARE})


def flip_flop_embedding_dropout_full() -> Recipe:
    """The canonical transformer with dropout of 0.5 on the embedding.

    python scripts/train.py flip_flop_embedding_dropout_full
    """
    changed = {"name": "flip_flop_embedding_dropout_full", "model.embedding_dropout": 0.5}
    return override(flip_flop_full(), changed)


def flip_flop_sharpened_full() -> Recipe:
    """The canonical transformer with a tenth of the entropy of attention added to the loss.

    python scripts/train.py flip_flop_sharpened_full
    """
    return override(flip_flop_full(), {"name": "flip_flop_sharpened_full", "objective": SharpenedLoss(strength=0.1)})


def flip_flop_sinusoidal_full() -> Recipe:
    """The canonical transformer with fixed sines for positions.

    python scripts/train.py flip_flop_sinusoidal_full
    """
    return override(flip_flop_full(), {"name": "flip_flop_sinusoidal_full", "model.positions": Sinusoidal()})


def flip_flop_alibi_full() -> Recipe:
    """The canonical transformer with scores that fall with distance.

    python scripts/train.py flip_flop_alibi_full
    """
    return override(flip_flop_full(), {"name": "flip_flop_alibi_full", "model.positions": ALiBi()})


def flip_flop_rotary_full() -> Recipe:
    """The canonical transformer with rotary positions.

    python scripts/train.py flip_flop_rotary_full
    """
    return override(flip_flop_full(), {"name": "flip_flop_rotary_full", "model.positions": Rotary()})


# scale -> what is changed -> the recipe
MITIGATIONS: Mapping[str, Mapping[str, Callable[[], Recipe]]] = MappingProxyType(
    {
        "cpu": MappingProxyType(
            {
                "rare strings": flip_flop_rare_cpu,
                "embedding dropout": flip_flop_embedding_dropout_cpu,
                "sharpening": flip_flop_sharpened_cpu,
                "weight decay": flip_flop_decay_cpu,
                "dropout": flip_flop_dropout_cpu,
                "depth": flip_flop_deep_cpu,
                "width": flip_flop_wide_cpu,
                "sinusoidal": flip_flop_sinusoidal_cpu,
                "ALiBi": flip_flop_alibi_cpu,
                "rotary": flip_flop_rotary_cpu,
            }
        ),
        "full": MappingProxyType(
            {
                "rare strings": flip_flop_rare_full,
                "embedding dropout": flip_flop_embedding_dropout_full,
                "sharpening": flip_flop_sharpened_full,
                "sinusoidal": flip_flop_sinusoidal_full,
                "ALiBi": flip_flop_alibi_full,
                "rotary": flip_flop_rotary_full,
            }
        ),
    }
)
