"""Coupled position ids against what else a model may know of positions, on sums of two and three and on products.

Cho et al. 2024 (arXiv 2405.20671). Every arm is the coupled recipe with another scheme: none, consecutive ids from a
random start, index hints, ALiBi, rotary, randomised positions; the same layers, steps and examples.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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


class Study(NamedTuple):
    """A task with its arms; `says` begins its figures where it is not alone, `steps` shortens the recipe's training."""

    task: str
    make: Callable[[], Recipe]
    arms: tuple[str, ...] = ("coupled", "no_positions")
    says: str = ""
    steps: int | None = None

    @property
    def recipe(self) -> Recipe:
        """Return the coupled recipe."""
        recipe = self.make()
        if self.steps is None:
            return recipe
        return override(recipe, {"train.steps": self.steps, "optimizer.warmup_steps": self.steps // 100})

    @property
    def beyond(self) -> int:
        """Return the length at which schemes are told apart: the last up to half as much again as in training."""
        task = self.recipe.task
        return max(size for size in task.test_sizes if 2 * size <= 3 * task.longest_train)


Studies = Mapping[str, tuple[Study, ...]]  # by scale

ALL = ("coupled", *ARMS)
SUMS: Studies = MappingProxyType(
    {
        "cpu": (Study("addition", addition_cpu, ALL, steps=2500),),
        "full": (Study("addition", addition_full, ALL),),
    }
)
OTHERS: Studies = MappingProxyType(
    {
        "cpu": (
            Study("sums of three", addition_three_cpu, says="sums of three ", steps=4000),
            Study("multiplication in base 3", multiplication_cpu, says="multiplication in base 3 ", steps=2500),
        ),
        "full": (
            Study("sums of three", addition_three_full, says="sums of three "),
            Study("multiplication", multiplication_full, says="multiplication "),
        ),
    }
)


def compare(studies: Studies, workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train every arm; return exact match by length and, where there are others, the lead of coupled ids over them."""
    figures: dict[str, float] = {}
    for study in studies[scale]:
        for name in study.arms:
            figures |= by_length(arm(study.recipe, name), workdir, seed, study.task, name, study.says)
        coupled, *others = (figures[f"{study.says}{name}@{study.beyond}"] for name in study.arms)
        if others:
            figures[f"lead/{study.task}"] = coupled - max(others)
    return figures


def pictures(studies: Studies, figures: Mapping[str, Sequence[float]]) -> list[Lines]:
    """Return exact match by length, one picture a task that was trained to the length of the figures."""
    drawn = []
    for study in itertools.chain.from_iterable(studies.values()):
        task, trained = study.recipe.task, figures.get(f"trained/{study.task}", [0])
        if trained[0] == task.train_sizes[1]:
            drawn.append(
                accuracy_picture(
                    figures,
                    [name for name in study.arms if f"longest/{study.task}/{name}" in figures],
                    title=f"Exact match beyond the lengths of training: {study.task}",
                    size_name=task.size_name,
                    trained=task.train_sizes,
                    prefix=study.says,
                )
            )
    return drawn


def experiment(name: str, studies: Studies) -> Experiment:
    """Return the experiment that compares the arms of these studies."""
    claims = (
        Claim(
            PAPER,
            f"{study.task.capitalize()} of {study.beyond} digits, trained to {study.recipe.task.longest_train}: "
            "exact match of coupled ids beyond the best other scheme's",
            f"lead/{study.task}",
            at_least=0.5,
            paper_value="others near 0 where coupled ids are near 1",
        )
        for study in studies["cpu"]
    )
    return Experiment(
        name=name,
        paper=PAPER,
        claims=tuple(claims),
        run=partial(compare, studies),
        pictures=partial(pictures, studies),
    )


COUPLING_SCHEMES = experiment("coupling_schemes", SUMS)
COUPLING_TASKS = experiment("coupling_tasks", OTHERS)
