"""Length generalisation: accuracy at every size, how far it holds, and its picture, for any task with a size.

>>> found = figures({5: 1.0, 10: 0.97, 15: 0.5, 20: 0.96}, "addition", "coupled", trained=10)
>>> found["coupled@15"], found["longest/addition/coupled"], found["trained/addition"]
(0.5, 10.0, 10.0)
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lm.config import Recipe
from lm.report.pictures import Lines
from lm.report.svg import Series
from lm.strict import ConfigError, override, require_choice
from lm.train import fit
from lm.types import Evaluation
from tasks.arithmetic.coupled import Coupled, arm
from tasks.schemes import POSITIONS

HELD = 0.95  # exact match at which a length counts as solved


def with_scheme(recipe: Recipe, scheme: str) -> Recipe:
    """Return a recipe of a transformer with another of POSITIONS, or, where ids may be coupled, of their arms."""
    if not hasattr(recipe.model, "positions"):
        raise ConfigError(f"{recipe.name} trains a {type(recipe.model).__name__}, which has no positions to choose")
    if isinstance(recipe.task, Coupled):
        return arm(recipe, scheme)
    require_choice("scheme", scheme, tuple(POSITIONS))
    model = replace(recipe.model, positions=POSITIONS[scheme](recipe.task.max_length))
    return replace(recipe, name=f"{recipe.name}_{scheme}", model=model)


def by_size(evaluation: Evaluation, size_name: str, metric: str = "exact_match") -> dict[int, float]:
    """Return a metric at every size that was examined."""
    return {int(size): rates[metric].value for size, rates in evaluation.slices[size_name].items()}


def longest(accuracies: Mapping[int, float], held: float = HELD) -> int:
    """Return the largest size up to which every examined size is solved, 0 where the smallest is not."""
    reached = 0
    for size in sorted(accuracies):
        if accuracies[size] < held:
            break
        reached = size
    return reached


def figures(accuracies: Mapping[int, float], task: str, arm: str, trained: int, prefix: str = "") -> dict[str, float]:
    """Return the figures of one arm: accuracy `ARM@SIZE` at every size, and how far it holds."""
    found = {f"{prefix}{arm}@{size}": accuracy for size, accuracy in accuracies.items()}
    return found | {f"longest/{task}/{arm}": float(longest(accuracies)), f"trained/{task}": float(trained)}


def by_length(recipe: Recipe, folder: Path, seed: int, task: str, arm: str, prefix: str = "") -> dict[str, float]:
    """Train a recipe and return its figures."""
    result = fit(override(recipe, {"train.seed": seed}), folder / recipe.name, quiet=True)
    assert result.evaluation is not None
    accuracies = by_size(result.evaluation, recipe.task.size_name)
    return figures(accuracies, task, arm, recipe.task.train_sizes[1], prefix)


def accuracy_picture(
    measured: Mapping[str, Sequence[float]],
    arms: Sequence[str],
    *,
    title: str,
    size_name: str,
    trained: tuple[int, int],
    prefix: str = "",
) -> Lines:
    """Draw accuracy by size, one curve an arm: the median over the seeds and, from three seeds on, its quartiles."""
    curves = []
    for name in arms:
        start = f"{prefix}{name}@"
        sizes = sorted(int(metric.removeprefix(start)) for metric in measured if metric.startswith(start))
        each = [measured[f"{start}{size}"] for size in sizes]
        lower, middle, upper = zip(*map(_quartiles, each), strict=True)
        curves.append(Series(name.replace("_", " "), sizes, middle, lower, upper))
    caption = "Median over the seeds; the whiskers are quartiles."
    return Lines(title, curves, size_name, "exact match", percent=True, shaded=trained, caption=caption)


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper one; of one value, itself."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, middle, upper
