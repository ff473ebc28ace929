"""Positional attention: what is learnt on small numbers holds for large ones where attention looks at places alone.

Back De Luca et al. 2025 (arXiv 2410.01686). Squared error by the scale of the numbers, of which training sees scale 1,
against the same network whose attention also looks at what stands there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lm.report.pictures import Picture
from lm.strict import override
from lm.train import fit
from tasks.arithmetic.aggregates import ASKS, aggregates_cpu, aggregates_full
from tasks.lengths import accuracy_picture, by_size
from tasks.task import Claim, Experiment

PAPER = "Positional attention (Back De Luca et al. 2025)"
MODELS = ("positional", "standard")
# Squared errors at scales 3 and 10, positional and then standard, medians of the paper's ten runs.
PUBLISHED: Mapping[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "sum": ((1.6e-3, 5.9e-2), (1.9, 88)),
    "minimum": ((1.2e-3, 4.3e-2), (0.39, 20)),
    "median": ((9e-4, 0.023), (0.48, 22)),
    "subarray": ((8e-3, 0.26), (2.7, 200)),
    "sort": ((4.6e-3, 0.15), (2.1, 55)),
}


def run(asks: Sequence[str], workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train both networks on each question; return their squared errors at every scale, and the ratios of these."""
    recipe = {"cpu": aggregates_cpu, "full": aggregates_full}[scale]()
    figures: dict[str, float] = {}
    for ask in asks if scale == "cpu" else ASKS:
        found = []
        for model in MODELS:
            values = {"task.ask": ask, "model.attention": model, "train.seed": seed}
            result = fit(override(recipe, values), workdir / f"{ask}-{model}", quiet=True)
            assert result.evaluation is not None
            errors = by_size(result.evaluation, "scale", "squared_error")
            figures |= {f"{ask} {model}@{c}": error for c, error in errors.items()}
            found.append(errors)
        ours, control = found
        figures |= {f"{ask} ratio@{c}": control[c] / ours[c] for c in ours}
    return figures


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Picture]:
    """Draw the squared errors of both networks on each question by scale."""
    drawn = [
        accuracy_picture(
            figures,
            MODELS,
            title=f"{ask.capitalize()} of numbers beyond the scale of training",
            size_name="scale",
            trained=(1, 1),
            prefix=f"{ask} ",
        )
        for ask in ASKS
        if f"{ask} ratio@1" in figures
    ]
    return [replace(picture, y_label="squared error", percent=False, log=True) for picture in drawn]


def _ratio(ask: str, scale: int, bar: float, paper: str) -> Claim:
    """Claim that the control errs so many times as much; `paper` is the ratio of the published medians."""
    statement = f"{ask.capitalize()} at scale {scale}: squared error of standard over positional attention"
    return Claim(PAPER, statement, f"{ask} ratio@{scale}", at_least=bar, paper_value=paper)


def _full(ask: str) -> list[Claim]:
    """Claim the published medians within a factor of 3."""
    claims = []
    for model, errors in zip(MODELS, PUBLISHED[ask], strict=True):
        for scale, error in zip((3, 10), errors, strict=True):
            bound = {"at_most": round(3 * error, 6)} if model == "positional" else {"at_least": round(error / 3, 6)}
            statement = f"Full size: {ask} at scale {scale}, {model} attention: squared error"
            claims.append(
                Claim(PAPER, statement, f"{ask} {model}@{scale}", paper_value=f"{error:g}", scale="full", **bound)
            )
    return claims


POSITIONAL_ATTENTION = Experiment(
    name="positional_attention",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "Sums at scale 3, of a network that saw scale 1: squared error",
            "sum positional@3",
            at_most=0.03,
            paper_value="0.0016",
        ),
        _ratio("sum", 3, 30, "1,200"),
        _ratio("sum", 10, 300, "1,500"),
        _ratio("minimum", 3, 10, "330"),
        _ratio("sort", 3, 10, "460"),
        *(claim for ask in ASKS for claim in _full(ask)),
    ),
    run=partial(run, ("sum", "minimum", "sort")),
    pictures=pictures,
)
