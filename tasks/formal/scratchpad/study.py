"""What a scratchpad buys: cycles that none learns without one, and sums and parities beyond the lengths of training.

Abbe et al. 2024 (arXiv 2406.06467). An exact match is one of the whole scratchpad: its label alone can be read off a
given way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lm.config import Recipe
from lm.report.pictures import Lines
from tasks.formal.scratchpad.cycles import cycles_cpu, cycles_path_cpu, cycles_plain_cpu
from tasks.formal.scratchpad.spaced_addition import spaced_addition_cpu, spaced_addition_plain_cpu
from tasks.formal.scratchpad.spaced_parity import spaced_parity_cpu, spaced_parity_plain_cpu
from tasks.lengths import accuracy_picture, by_length
from tasks.task import Claim, Experiment

PAPER = "How far can transformers reason? (Abbe et al. 2024)"


def studied() -> dict[str, dict[str, Recipe]]:
    """Return the recipes by task and arm."""
    return {
        "cycles": {"inductive": cycles_cpu(), "path": cycles_path_cpu(), "plain": cycles_plain_cpu()},
        "parity": {"inductive": spaced_parity_cpu(), "plain": spaced_parity_plain_cpu()},
        "addition scratchpad": {"inductive": spaced_addition_cpu(), "plain": spaced_addition_plain_cpu()},
    }


def run_study(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train every arm of every task and return its exact match by size."""
    found: dict[str, float] = {}
    for task, arms in studied().items():
        for arm, recipe in arms.items():
            found |= by_length(recipe, workdir, seed, task, arm, prefix=f"{task}/")
    return found


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Lines]:
    """Return accuracy by length of the tasks that have more lengths than those of training."""
    titles = {"parity": "Parity of bits among 20 places", "addition scratchpad": "Addition in fields of 10 places"}
    found = []
    for task, title in titles.items():
        recipes = studied()[task]
        asked = recipes["inductive"].task
        found.append(
            accuracy_picture(
                figures,
                list(recipes),
                title=title,
                size_name=asked.size_name,
                trained=asked.train_sizes,
                prefix=f"{task}/",
            )
        )
    return found


INDUCTIVE_SCRATCHPAD = Experiment(
    name="inductive_scratchpad",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "Two cycles of three nodes or one of six, an inductive scratchpad, 2,000 steps: exact match of all of it",
            "cycles/inductive@3",
            at_least=0.98,
            paper_value="(learned to n = 10)",
        ),
        Claim(
            PAPER,
            "The same with the whole way as the scratchpad, 2,000 steps",
            "cycles/path@3",
            at_least=0.98,
            paper_value="(learned to n = 10)",
        ),
        Claim(
            PAPER,
            "The same without a scratchpad, 5,000 steps: right labels, of which a coin has half",
            "cycles/plain@3",
            at_most=0.6,
            paper_value="(n = 7: not in 100,000 steps)",
        ),
        Claim(
            PAPER,
            "Parity trained on 1 to 8 bits among 20 places, inductive scratchpad, asked of 16: exact match",
            "parity/inductive@16",
            at_least=0.95,
            paper_value="(trained to 30 of 60: right to 50 or 55)",
        ),
        Claim(
            PAPER,
            "The same without a scratchpad, where a coin has half",
            "parity/plain@16",
            at_most=0.6,
        ),
        Claim(
            PAPER,
            "Sums of 1 to 5 digits in fields of 10 places, inductive scratchpad, asked of 9: exact match",
            "addition scratchpad/inductive@9",
            at_least=0.9,
            paper_value="(trained to 10: right to 18 or 20)",
        ),
        Claim(
            PAPER,
            "The same without a scratchpad",
            "addition scratchpad/plain@9",
            at_most=0.1,
        ),
    ),
    run=run_study,
    pictures=pictures,
)
