"""Coupled position ids against what else a model may know of positions: strings copied forwards and backwards.

Cho et al. 2024 (arXiv 2405.20671). Every arm is the coupled recipe with another scheme of positions; the same layer,
steps and examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from lm.config import Recipe
from lm.report.pictures import Lines
from tasks.arithmetic.copying import copy_cpu, copy_full, reverse_cpu, reverse_full
from tasks.arithmetic.coupled import ARMS, arm
from tasks.lengths import accuracy_picture, by_length
from tasks.task import Claim, Experiment

PAPER = "Position coupling (Cho et al. 2024)"


class Study(NamedTuple):
    """A task at both scales, and its arms."""

    cpu: Callable[[], Recipe]
    full: Callable[[], Recipe]
    arms: tuple[str, ...]


STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        "copy": Study(copy_cpu, copy_full, ("coupled", *(name for name in ARMS if name != "index_hints"))),
        "reverse": Study(reverse_cpu, reverse_full, ("coupled", "no_positions")),
    }
)


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train every arm of both tasks, at full scale the coupled ones; return exact match by length."""
    figures: dict[str, float] = {}
    for task, study in STUDIES.items():
        for name in study.arms if scale == "cpu" else ("coupled",):
            recipe = arm(study.cpu() if scale == "cpu" else study.full(), name)
            figures |= by_length(recipe, workdir, seed, task, name, f"{task} ")
    return figures


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Lines]:
    """Return exact match by length, one picture a task."""
    return [
        accuracy_picture(
            figures,
            [name for name in study.arms if f"longest/{task}/{name}" in figures],
            title=f"Exact match beyond the lengths of training: {task}",
            size_name="digits",
            trained=(1, int(figures[f"trained/{task}"][0])),
            prefix=f"{task} ",
        )
        for task, study in STUDIES.items()
    ]


COUPLED_COPYING = Experiment(
    name="coupled_copying",
    paper=PAPER,
    claims=(
        *(
            Claim(
                PAPER,
                f"One layer trained to {does} 1-10 digits: exact match at 40 digits",
                f"{task} coupled@40",
                at_least=0.9,
                paper_value="(our estimate: 0.9)",
            )
            for task, does in (("copy", "copy"), ("reverse", "write backwards"))
        ),
        *(
            Claim(
                PAPER,
                f"The same layer {positions}: exact match at 40 copied digits",
                f"copy {name}@40",
                at_most=0.05,
                paper_value="(sums: near 0)",
                rule="worst",
            )
            for name, positions in (
                ("no_positions", "without positions"),
                ("random_start", "with consecutive ids from a random start"),
            )
        ),
    ),
    run=run,
    pictures=pictures,
)
