"""What a scratchpad buys: cycles that none learns without one, and sums and parities beyond the lengths of training.

Abbe et al. 2024 (arXiv 2406.06467). An exact match is one of the whole scratchpad: its label alone can be read off a
given way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from lm.config import Recipe
from lm.report.pictures import Lines
from lm.strict import override
from lm.train import fit
from tasks.formal.scratchpad.cycles import Cycles, cycles_cpu, cycles_path_cpu, cycles_plain_cpu
from tasks.formal.scratchpad.spaced_addition import spaced_addition_cpu, spaced_addition_plain_cpu
from tasks.formal.scratchpad.spaced_parity import spaced_parity_cpu, spaced_parity_plain_cpu
from tasks.lengths import accuracy_picture, by_length, by_size
from tasks.task import Claim, Experiment

PAPER = "How far can transformers reason? (Abbe et al. 2024)"


CYCLES: Mapping[str, Callable[[], Recipe]] = MappingProxyType(
    {"inductive": cycles_cpu, "path": cycles_path_cpu, "plain": cycles_plain_cpu}
)
LENGTHS: Mapping[str, Mapping[str, Callable[[], Recipe]]] = MappingProxyType(
    {
        "parity": {"inductive": spaced_parity_cpu, "plain": spaced_parity_plain_cpu},
        "addition scratchpad": {"inductive": spaced_addition_cpu, "plain": spaced_addition_plain_cpu},
    }
)


def run_cycles(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train every arm on ways of three steps and return its exact match on those of two, three and four."""
    found: dict[str, float] = {}
    for arm, make in CYCLES.items():
        result = fit(override(make(), {"train.seed": seed}), workdir / arm, quiet=True)
        assert result.evaluation is not None
        accuracies = by_size(result.evaluation, Cycles.size_name)
        found |= {f"{arm}@{size}": accuracy for size, accuracy in accuracies.items()}
    return found


def run_lengths(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train parity and addition with an inductive scratchpad and without one; return exact match by size."""
    found: dict[str, float] = {}
    for task, arms in LENGTHS.items():
        for arm, make in arms.items():
            found |= by_length(make(), workdir, seed, task, arm, prefix=f"{task}/")
    return found


def draw_cycles(figures: Mapping[str, Sequence[float]]) -> list[Lines]:
    """Return accuracy by the steps of the way."""
    title = "Six nodes, trained on ways of three steps"
    return [accuracy_picture(figures, list(CYCLES), title=title, size_name="steps of the way", trained=(3, 3))]


def draw_lengths(figures: Mapping[str, Sequence[float]]) -> list[Lines]:
    """Return accuracy by length, one picture a task."""
    titles = {"parity": "Parity of bits among 20 places", "addition scratchpad": "Addition in fields of 10 places"}
    pictures = []
    for task, title in titles.items():
        asked = LENGTHS[task]["inductive"]().task
        named = {"title": title, "size_name": asked.size_name, "prefix": f"{task}/"}
        pictures.append(accuracy_picture(figures, list(LENGTHS[task]), trained=asked.train_sizes, **named))
    return pictures


INDUCTIVE_SCRATCHPAD = Experiment(
    name="inductive_scratchpad",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "Two cycles of three nodes or one of six, an inductive scratchpad, 1,500 steps: exact match of all of it",
            "inductive@3",
            at_least=0.98,
            paper_value="(learned to n = 10)",
        ),
        Claim(
            PAPER,
            "The same with the whole way as the scratchpad, 1,500 steps",
            "path@3",
            at_least=0.98,
            paper_value="(learned to n = 10)",
        ),
        Claim(
            PAPER,
            "The same without a scratchpad, 5,000 steps, where a coin has half",
            "plain@3",
            at_most=0.6,
            paper_value="(n = 7: not in 100,000 steps)",
        ),
        Claim(
            PAPER,
            "Trained on ways of three steps, an inductive scratchpad holds on those of four: exact match",
            "inductive@4",
            at_least=0.95,
        ),
        Claim(PAPER, "There the whole way as the scratchpad does not hold: exact match", "path@4", at_most=0.5),
    ),
    run=run_cycles,
    pictures=draw_cycles,
)

SCRATCHPAD_LENGTHS = Experiment(
    name="scratchpad_lengths",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "Parity trained on 1 to 8 bits among 20 places, inductive scratchpad, asked of 16: exact match",
            "parity/inductive@16",
            at_least=0.95,
            paper_value="(trained to 30 of 60: right to 50 or 55)",
        ),
        Claim(PAPER, "The same without a scratchpad, where a coin has half", "parity/plain@16", at_most=0.6),
        Claim(
            PAPER,
            "Sums of 1 to 5 digits in fields of 10 places, inductive scratchpad, asked of 9: exact match",
            "addition scratchpad/inductive@9",
            at_least=0.9,
            paper_value="(trained to 10: right to 18 or 20)",
        ),
        Claim(PAPER, "The same without a scratchpad", "addition scratchpad/plain@9", at_most=0.1),
    ),
    run=run_lengths,
    pictures=draw_lengths,
)
