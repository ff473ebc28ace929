"""Coupled position ids against what else a model may know of positions, on sums of two and three and on products.

Cho et al. 2024 (arXiv 2405.20671). Every arm is the coupled recipe with another scheme: none, consecutive ids from a
random start, index hints, ALiBi, rotary, randomised positions; the same layers, steps and examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from lm.config import Recipe
from lm.report.pictures import Lines
from lm.strict import override
from tasks.arithmetic.addition import addition_cpu, addition_full, addition_three_cpu, addition_three_full
from tasks.arithmetic.coupled import ARMS, arm
from tasks.arithmetic.multiplication import multiplication_cpu, multiplication_full
from tasks.lengths import accuracy_picture, by_length
from tasks.task import Claim, Experiment

PAPER = "Position coupling (Cho et al. 2024)"
BEYOND = 15  # digits at which schemes are told apart; all are trained to 10


class Study(NamedTuple):
    """A task at both scales, its arms, and what its figures begin with."""

    cpu: Callable[[], Recipe]
    full: Callable[[], Recipe]
    arms: tuple[str, ...]
    prefix: str


FEW = ("coupled", "no_positions", "random_start")
STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        "addition": Study(addition_cpu, addition_full, ("coupled", *ARMS), ""),
        "sums of three": Study(addition_three_cpu, addition_three_full, FEW, "sums of three "),
        "multiplication": Study(multiplication_cpu, multiplication_full, FEW, "multiplication "),
    }
)
STEPS = 3000


def arms_of(task: str, scale: str) -> dict[str, Recipe]:
    """Return what is trained on a task; on CPU in a shorter training than the recipe's own."""
    study = STUDIES[task]
    if scale == "full":
        return {name: arm(study.full(), name) for name in study.arms}
    recipe = override(study.cpu(), {"train.steps": STEPS, "optimizer.warmup_steps": STEPS // 100})
    return {name: arm(recipe, name) for name in study.arms}


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train every arm of every task; return exact match by length, and the lead of coupled ids over the best other."""
    figures: dict[str, float] = {}
    for task, study in STUDIES.items():
        for name, recipe in arms_of(task, scale).items():
            figures |= by_length(recipe, workdir, seed, task, name, study.prefix)
        if scale == "cpu":
            coupled, *others = (figures[f"{study.prefix}{name}@{BEYOND}"] for name in study.arms)
            figures[f"lead/{task}"] = coupled - max(others)
    return figures


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Lines]:
    """Return exact match by length, one picture a task."""
    return [
        accuracy_picture(
            figures,
            study.arms,
            title=f"Exact match beyond the lengths of training: {task}",
            size_name="digits",
            trained=(1, int(figures[f"trained/{task}"][0])),
            prefix=study.prefix,
        )
        for task, study in STUDIES.items()
    ]


COUPLING_SCHEMES = Experiment(
    name="coupling_schemes",
    paper=PAPER,
    claims=tuple(
        Claim(
            PAPER,
            f"{task.capitalize()} at {BEYOND} digits, trained to 10: exact match of coupled ids beyond the best other",
            f"lead/{task}",
            at_least=0.5,
            paper_value="others near 0 where coupled ids are near 1",
        )
        for task in STUDIES
    ),
    run=run,
    pictures=pictures,
)
