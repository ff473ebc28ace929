"""What growth by stacking buys: steps to recover, loss at equal compute, seconds; and the theory's tables."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lm.config import BlockScales, Growth, Recipe
from lm.strict import override
from lm.train import Run, stage_flops
from lm.transforms import stages_of
from lm.transforms.stacking import stage_lengths
from tasks.task import Claim, Experiment
from tasks.training.stacking import (
    Looks,
    held_out,
    losses_of,
    other_models,
    prepare_depths,
    stacking_cpu,
    stacking_full,
    watch,
)
from tasks.training.stacking_theory import theory

PAPER = "Stacking (Agarwal et al. 2024; Saunshi et al. 2024)"
EVERY = 25  # steps between two looks at the held-out loss
NEAR = range(-4, 25, 2)  # steps around a growth at which it is looked at as well
SPAN = 6  # steps over which such looks are averaged
ROUNDS = 3  # timings of each depth, taken in turn
BETA = 0.5  # of the scaled copies
MANY = 10_000  # steps of a longer run, for which seconds are reckoned

# Each plan of growth as what it changes in the recipe.
PLANS: Mapping[str, Mapping[str, Any]] = {
    "top": {},
    "middle": {"growth.place": "middle"},
    "random": {"growth.fill": "random"},
    "zero": {"growth.fill": "random", "growth.scale": 0.0},
    "scaled": {"growth.scale": BETA},
    "trained": {"growth.scale": BETA, "growth.scaled": r"blocks/branch_scale$", "transforms": (BlockScales(),)},
}


class Timed(NamedTuple):
    """A depth made ready, the seconds until its first step (data at hand, program compiled) and those of a step."""

    run: Run
    start: float
    step: float


def timed(recipe: Recipe, folder: Path, depths: Iterable[int]) -> dict[int, Timed]:
    """Prepare a recipe at each depth and time it: medians of stretches that the depths take in turn."""
    recipe.task.source(recipe, folder)  # builds the corpus, which every run shares
    count = recipe.train.steps_per_dispatch
    runs, states, starts = {}, {}, {}
    seconds: dict[int, list[float]] = {depth: [] for depth in depths}

    def stretch(depth: int) -> float:
        begun = time.perf_counter()
        states[depth], _ = runs[depth].stretch(states[depth], runs[depth].batches(0, count), count)
        jax.block_until_ready(states[depth])
        return time.perf_counter() - begun

    for depth in seconds:
        begun = time.perf_counter()
        runs |= prepare_depths(recipe, folder, [depth])
        states[depth] = runs[depth].init()
        stretch(depth)
        starts[depth] = time.perf_counter() - begun
    for _ in range(ROUNDS):
        for depth, each in seconds.items():
            each.append(stretch(depth) / count)
    steps = {depth: statistics.median(each) for depth, each in seconds.items()}
    return {d: Timed(runs[d], max(starts[d] - count * steps[d], 0.0), steps[d]) for d in runs}


def off_proportion(times: Mapping[int, Timed], depths: tuple[int, ...]) -> float:
    """Return how far seconds a step are from proportional to depth, at worst, as a share."""
    full = depths[-1]
    return max(abs(times[d].step / times[full].step * full / d - 1) for d in depths)


def seconds(times: Mapping[int, Timed], growth: Growth, steps: int, start: bool) -> float:
    """Return the seconds of a run, with or without what comes before the first step of each stage."""
    stages = zip(growth.depths, stage_lengths(growth, steps), strict=True)
    return sum(start * times[depth].start + length * times[depth].step for depth, length in stages)


def savings(times: Mapping[int, Timed], growth: Growth, steps: int, start: bool) -> float:
    """Return the seconds of full depth over those of the grown run, for as many steps."""
    full = Growth(growth.depths[-1:])
    return seconds(times, full, steps, start) / seconds(times, growth, steps, start)


def mean_look(looks: Mapping[int, float], after: int, until: int) -> float:
    """Return the mean of the looks at steps after + 1 to until."""
    return statistics.fmean(loss for step, loss in looks.items() if after < step <= until)


def steps_to_regain(looks: Looks, growths: Iterable[int]) -> float:
    """Return the steps after which the loss of before is back, mean of the growths; the last of NEAR means not yet."""
    seen, found = dict(looks), []
    for growth in growths:
        before = mean_look(seen, growth - SPAN, growth)
        after = (n for n in NEAR if n > 0 and mean_look(seen, max(growth, growth + n - SPAN), growth + n) <= before)
        found.append(next(after, NEAR[-1]))
    return statistics.fmean(found)


def compare(recipe: Recipe, folder: Path) -> dict[str, float]:
    """Train a decoder at full depth, at full depth for no more operations, and by every plan of growth."""
    steps, growth = recipe.train.steps, recipe.growth
    assert growth is not None
    full = growth.depths[-1]
    times = timed(recipe, folder, growth.depths)
    runs = {depth: each.run for depth, each in times.items()}
    batch = held_out(runs[full], steps)
    growths = [stage.start for stage in stages_of(recipe)[1:]]
    marks = {*range(EVERY, steps + 1, EVERY), *(growth + n for growth in growths for n in NEAR)}
    flops = stage_flops(recipe, runs[full])
    share = sum(each * (stage.stop - stage.start) for stage, each in flops) / (steps * flops[-1][1])
    looks: dict[str, Looks] = {}
    plain = losses_of(runs, batch)
    arms = {"full": {"growth": None}, "short": {"growth": None, "train.steps": round(share * steps)}, **PLANS}
    for name, changes in arms.items():
        arm = override(recipe, changes)
        depths = {stage.recipe.model.depth for stage in stages_of(arm)}
        shared = not arm.transforms and arm.train.steps == steps
        own = runs if shared else prepare_depths(arm, folder, depths)
        losses = plain if not arm.transforms else losses_of(own, batch)
        looks[name] = watch(arm, own, losses, {mark for mark in marks if mark <= arm.train.steps})
    final = {name: seen[-1][1] for name, seen in looks.items()}
    figures = {"compute_share": share} | {f"loss_{name}": loss for name, loss in final.items()}
    regain = {name: steps_to_regain(looks[name], growths) for name in PLANS}
    figures |= {f"regain_{name}": count for name, count in regain.items()}
    for name in ("top", "middle"):
        reached = next((step for step, loss in looks["full"] if loss <= final[name]), steps)
        alone = Growth((full,))
        bare = seconds(times, alone, reached, start=False) / seconds(times, growth, steps, start=False)
        whole = seconds(times, alone, reached, start=True) / seconds(times, growth, steps, start=True)
        figures |= {
            f"{name}_regain_over_random": regain[name] / regain["random"],
            f"{name}_over_equal_compute": final[name] / final["short"],
            f"{name}_over_equal_steps": final[name] / final["full"],
            f"{name}_equal_loss_flops": reached / (share * steps),
            f"{name}_equal_loss_seconds": bare,
            f"{name}_equal_loss_seconds_with_start": whole,
        }
    return figures | {"small_off_proportion": off_proportion(times, growth.depths)}


def clock(recipe: Recipe, folder: Path) -> dict[str, float]:
    """Time a wider decoder, whose blocks outweigh what has no depth, at 1 to 6 layers."""
    heavy = {"model.width": 128, "model.heads": 4, "train.batch_size": 8, "train.steps_per_dispatch": 3}
    times = timed(override(recipe, heavy), folder, range(1, 7))
    three, six = Growth((2, 4, 6)), Growth((1, 2, 3, 4, 5, 6))
    return {
        "three_off_proportion": off_proportion(times, three.depths),
        "six_off_proportion": off_proportion(times, six.depths),
        "three_savings": savings(times, three, MANY, start=False),
        "six_savings": savings(times, six, MANY, start=False),
        "six_savings_with_start": savings(times, six, recipe.train.steps, start=True),
        "six_savings_with_start_many": savings(times, six, MANY, start=True),
        "start_seconds": times[6].start,
        "step_seconds": times[6].step,
    }


def others(folder: Path, seed: int) -> dict[str, float]:
    """Return the final losses of other kinds of nets, grown by copies and by random layers, over full depth's."""
    figures = {}
    for name, recipe in other_models().items():
        recipe = override(recipe, {"train.seed": seed})
        runs = prepare_depths(recipe, folder, recipe.growth.depths)
        batch = held_out(runs[recipe.growth.depths[-1]], recipe.train.steps)
        losses = losses_of(runs, batch)
        arms = {"full": {"growth": None}, "copy": {}, "random": {"growth.fill": "random"}}
        final = {arm: watch(override(recipe, changes), runs, losses, ())[-1][1] for arm, changes in arms.items()}
        figures |= {f"{name}_{arm}_over_full": final[arm] / final["full"] for arm in ("copy", "random")}
    return figures


def schedules_off() -> float:
    """Return how far PROP-1, 2 and 3 with six blocks are from their shares of full depth's compute, at worst."""
    growth, steps = Growth((1, 2, 3, 4, 5, 6)), 21 * 91 * 441
    shares = {1.0: 91 / 126, 2.0: 441 / 546, 3.0: 2275 / 2646}
    found = {alpha: stage_lengths(replace(growth, alpha=alpha), steps) for alpha in shares}
    return max(abs(sum(i * n for i, n in enumerate(found[a], 1)) / (6 * steps) - shares[a]) for a in shares)


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Compare plans of growth on one corpus; on CPU also time them, grow other nets, and do the theory."""
    recipe = override(stacking_cpu() if scale == "cpu" else stacking_full(), {"train.seed": seed})
    folder = workdir / "corpus"
    folder.mkdir(parents=True)
    figures = compare(recipe, folder)
    if scale == "cpu":
        figures |= clock(recipe, folder) | others(folder, seed) | {"schedules_off": schedules_off()} | theory()
    return figures


def claim(statement: str, metric: str, **bound: Any) -> Claim:
    """Return a claim of these papers."""
    return Claim(PAPER, statement, metric, **bound)


STACKING = Experiment(
    name="stacking",
    paper=PAPER,
    claims=(
        claim(
            "An ensemble grown by scaled copies is accelerated descent, by zeros plain descent: largest difference "
            "of the iterates in 50 stages",
            "ensemble_off_descent",
            at_most=1e-12,
            exact=True,
        ),
        claim(
            "A copied layer extrapolates the deep linear net: largest difference from F + beta (F - F') inv(F') F",
            "net_off_extrapolation",
            at_most=1e-10,
            exact=True,
        ),
        claim(
            "Ensemble, stages to a loss of 1e-6 at condition numbers 10, 100, 1,000, 10,000: largest difference from "
            "the table",
            "stages_off_the_table",
            at_most=0,
            paper_value="(our NumPy: zero 51, 423, 3105, 19559; best beta 19, 58, 151, 342; 0.9 44, 67, 291, 1948; "
            "1 72, 140, 346, 158)",
            exact=True,
        ),
        claim(
            "Stages with zeros over stages with copies of the best beta, condition number 100",
            "zero_over_best_100",
            at_least=5,
            paper_value="order of sqrt(100) = 10",
            exact=True,
        ),
        claim(
            "The same, condition number 1,000",
            "zero_over_best_1000",
            at_least=15,
            paper_value="order of sqrt(1000) = 32",
            exact=True,
        ),
        claim(
            "Stages with zeros grow as a power of the condition number: exponent's distance from 0.85",
            "zero_slope_off",
            at_most=0.15,
            paper_value="1 as the worst case",
            exact=True,
        ),
        claim(
            "Stages with copies of the best beta grow as a power of it: exponent's distance from 0.42",
            "best_slope_off",
            at_most=0.12,
            paper_value="1/2 as the worst case",
            exact=True,
        ),
        claim(
            "A trained beta does not hurt: stages with it over stages without, worst of four condition numbers",
            "trained_over_best",
            at_most=1,
            paper_value="does not hurt",
            exact=True,
        ),
        claim(
            "Deep linear net, losses after 10, 30, 60 stages (5 seeds): largest factor off the one-digit table",
            "net_factor_off_the_table",
            at_most=1.5,
            paper_value="(our NumPy, condition number 100 after 60: zero 1e-3, beta 0.8 4e-5, 0.9 2e-5, 1 9e-3)",
            exact=True,
        ),
        claim(
            "Deep linear net, condition number 100, 60 stages: loss with zeros over the worse of beta 0.8 and 0.9",
            "net_zero_over_stacked",
            at_least=10,
            paper_value="(our NumPy: 27)",
            exact=True,
        ),
        claim(
            "There a plain copy (beta 1) is worse than zeros: ratio of the losses",
            "net_plain_over_zero",
            at_least=1,
            paper_value="(our NumPy: 9)",
            exact=True,
        ),
        claim(
            "PROP-1, 2, 3 with six blocks take 91/126, 441/546, 2275/2646 of full depth's compute: largest difference",
            "schedules_off",
            at_most=1e-12,
            paper_value="1.385x, 1.238x, 1.163x",
            exact=True,
        ),
        claim(
            "6-layer decoder grown 2, 4, 6 on top (PROP-1): steps to regain the loss from before a growth, over those "
            "with randomly drawn layers",
            "top_regain_over_random",
            at_most=0.5,
        ),
        claim("The same, the middle block repeated", "middle_regain_over_random", at_most=0.5),
        claim(
            "Held-out loss of the net grown on top over that of full depth trained for as many operations",
            "top_over_equal_compute",
            at_most=1.02,
            paper_value="up to 40 % fewer operations at equal or slightly worse perplexity",
        ),
        claim(
            "The same, the middle block repeated",
            "middle_over_equal_compute",
            at_most=1.02,
            paper_value="up to 40 % fewer operations at equal or slightly worse perplexity",
        ),
        claim(
            "Width 128, 1,024 tokens: seconds a step are proportional to depth at 2, 4, 6 layers: worst deviation",
            "three_off_proportion",
            at_most=0.15,
        ),
        claim(
            "Seconds of full depth over PROP-1 with six blocks for as many steps, start and compiling left out",
            "six_savings",
            at_least=1.3,
            paper_value="1.385 for the layers alone",
        ),
        claim(
            "The same with start and compiling, 10,000 steps (reckoned from the measured starts and steps)",
            "six_savings_with_start_many",
            at_least=1.3,
        ),
        claim(
            "The same with start and compiling, 400 steps",
            "six_savings_with_start",
            at_least=1.3,
        ),
        claim(
            "24 layers, PROP-2, the middle block repeated: held-out loss over that of full depth for as many steps",
            "middle_over_equal_steps",
            at_most=1.005,
            paper_value="equal at 1/1.24 of the operations",
            scale="full",
        ),
    ),
    run=run,
)
