"""What helps against attention glitches: a population over seeds, with one change at a time.

Liu et al. 2023 (arXiv 2306.00946), section 5 and results R4 to R7. Glitches differ from seed to seed, so every
statement is about a population; its runs are in the figures one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lm.config import Recipe
from lm.report.pictures import HeatMap, Lines, Picture
from lm.report.svg import Series
from lm.strict import override
from lm.sweep import run_sweep
from tasks.formal.flip_flop.glitches import TURNED, TURNING
from tasks.formal.flip_flop.language import FlipFlop, flip_flop_attention_cpu, flip_flop_full
from tasks.formal.flip_flop.mitigations import MITIGATIONS
from tasks.formal.flip_flop.study import PAPER
from tasks.task import Claim, Experiment

TAILS = {"usual": "80", "sparse": "98", "dense": "10", "turning": "turning"}  # percentages of ignores
READS = {"cpu": 100_000, "full": 354_000}  # graded of each percentage, for each run
# Runs for each seed of the experiment: without a change, with each change.
RUNS = {"cpu": (3, 1), "full": (8, 8)}
LEFT_OUT = ("width",)  # of the small form: it costs as much as three others and changes as little as depth
POSITIONS = ("sinusoidal", "ALiBi", "rotary")


def population(recipe: Recipe, folder: Path, seeds: Sequence[int], reads: int) -> dict[str, np.ndarray]:
    """Train a recipe with every seed; return the glitch rate of each run on each kind of string, [P]."""
    members = run_sweep(override(recipe, {"task.test_reads": reads}), {}, seeds, folder).members
    found = [member.evaluation.slices for member in members]
    slices = [each[FlipFlop.size_name] | {"turning": each[TURNING][TURNED]} for each in found]
    return {tail: np.array([each[name]["glitch_rate"].value for each in slices]) for tail, name in TAILS.items()}


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train the baseline and every change to it; compare medians."""
    alone, changed = RUNS[scale]
    baseline = {"cpu": flip_flop_attention_cpu, "full": flip_flop_full}[scale]()
    found = {"baseline": population(baseline, workdir, range(alone * seed, alone * (seed + 1)), READS[scale])}
    for name, recipe in MITIGATIONS[scale].items():
        if scale == "full" or name not in LEFT_OUT:
            seeds = range(changed * seed, changed * (seed + 1))
            found[name] = population(recipe(), workdir, seeds, READS[scale])
    figures: dict[str, float] = {}
    for name, rates in found.items():
        for tail, rate_P in rates.items():
            figures |= {f"{name}/{tail}/run={i}": float(rate) for i, rate in enumerate(rate_P)}
            figures[f"{name}/{tail}"] = float(np.median(rate_P))
            figures[f"{name}/{tail}/over_baseline"] = ratio(rate_P, found["baseline"][tail])
        figures[f"{name}/flawless"] = float(np.sum(rates["sparse"] + rates["dense"] == 0))
    others = [name for name in found if name not in ("baseline", "rare strings")]
    figures["others_flawless"] = sum(figures[f"{name}/flawless"] for name in others)
    fixed = [figures[f"{name}/dense/over_baseline"] for name in POSITIONS]
    return figures | {"fixed_positions_dense": float(np.median(fixed))}


def ratio(changed_P: np.ndarray, baseline_P: np.ndarray) -> float:
    """Return the median of one population over that of another, whose glitches are taken as at least one in 1e9."""
    return float(np.median(changed_P) / max(np.median(baseline_P), 1e-9))


def runs(figures: Mapping[str, Sequence[float]], name: str, tail: str) -> list[float]:
    """Return the rates of all runs with a change, over all seeds of the experiment."""
    return [value for figure, values in figures.items() if figure.startswith(f"{name}/{tail}/run=") for value in values]


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Picture]:
    """Draw every run as a point, sparse against dense, and the spread of each population."""
    names = [figure.removesuffix("/flawless") for figure in figures if figure.endswith("/flawless")]
    floor = 1 / READS["full"]  # where a run without an error is drawn
    clouds = [
        Series(name, *([max(rate, floor) for rate in runs(figures, name, tail)] for tail in ("sparse", "dense")))
        for name in names
    ]
    scatter = Lines(
        "Glitch rates of every run",
        clouds,
        "98 % ignored",
        "10 % ignored",
        log=True,
        log_x=True,
        joined=False,
        caption=f"A run without an error is drawn at {floor:.0e}.",
    )
    marks = {"least": 0.0, "lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75, "most": 1.0}
    rows = []
    for name in names:
        flawless, whole = sum(figures[f"{name}/flawless"]), len(runs(figures, name, "sparse"))
        rows.append(f"{name} ({flawless:.0f} of {whole} flawless)")
    spreads = [
        HeatMap(
            f"Glitch rate with {TAILS[tail]} % ignored, over runs",
            [[float(np.quantile(runs(figures, name, tail), q)) for q in marks.values()] for name in names],
            rows=rows,
            columns=list(marks),
            percent=True,
        )
        for tail in ("sparse", "dense")
    ]
    return [scatter, *spreads]


def claims(scale: str) -> tuple[Claim, ...]:
    """Return what the paper says of the changes, at one scale."""
    small = scale == "cpu"
    size = "One layer" if small else "Full size"
    return (
        Claim(
            PAPER,
            f"{size}, rare strings in training: glitch rate at 98 % over the baseline's",
            "rare strings/sparse/over_baseline",
            at_most=1 / 30,
            paper_value="0 in 6 of 25 runs",
            scale=scale,
        ),
        Claim(
            PAPER,
            f"{size}, the entropy of attention in the loss: glitch rate at 98 % over the baseline's",
            "sharpening/sparse/over_baseline",
            at_most=1.0,
            paper_value="down to 0.01",
            scale=scale,
        ),
        Claim(
            PAPER,
            f"{size}, dropout of 0.5 on the embedding: glitch rate at 98 % over the baseline's",
            "embedding dropout/sparse/over_baseline",
            at_most=1.0,
            paper_value="down to 0.01",
            scale=scale,
        ),
        Claim(
            PAPER,
            f"{size}, positions that are not trained (sinusoidal, ALiBi, rotary): glitch rate at 10 % over the "
            "baseline's, median of the three",
            "fixed_positions_dense",
            at_most=1.0,
            paper_value="below 1",
            scale=scale,
        ),
        Claim(
            PAPER,
            f"{size}: nothing else removes all glitches: runs with another change and no error on either tail",
            "others_flawless",
            at_most=0,
            paper_value="0",
            rule="worst",
            scale=scale,
        ),
    )


FLIP_FLOP_MITIGATIONS = Experiment(
    name="flipflop_mitigations",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "The baseline is right where it was trained (80 %): glitch rate, median of three runs",
            "baseline/usual",
            at_most=1e-4,
            paper_value="0",
        ),
        Claim(
            PAPER,
            "The baseline glitches on sparse strings (98 %): glitch rate, median of three runs",
            "baseline/sparse",
            at_least=1e-2,
            paper_value="1e-3 to 1e-1, by seed",
        ),
        Claim(
            PAPER,
            "The baseline glitches on dense strings (10 %): glitch rate, median of three runs",
            "baseline/dense",
            at_least=1e-3,
            paper_value="1e-4 to 1e-2, by seed",
        ),
        *claims("cpu"),
        *claims("full"),
    ),
    run=run,
    pictures=pictures,
)
