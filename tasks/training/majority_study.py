"""What majority kernels bring: against the plain model, ensembles and wide models, at equal steps and equal seconds.

Mazzawi et al. 2024 (arXiv 2402.05033). The bars are on perceptrons that read digits; what is measured beside them on
residual nets and transformers has none, as the paper's constants are not known.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lm.config import MajorityKernels, Recipe
from lm.losses import augmented
from lm.step import init_state, make_step, repeat, weights
from lm.train import build_net, parts_of
from lm.types import Batch, Key, Net, Outputs, Params, TrainState
from tasks.task import Claim, Experiment
from tasks.training.majority import perceptron, small_models, with_copies

PAPER = "Majority kernels (Mazzawi et al. 2024)"
SEEDS, ENSEMBLE = 5, 3


class Arm(NamedTuple):
    """A recipe made ready for any seed: begin (seed), advance (state, count), examine (plain weights)."""

    recipe: Recipe
    net: Net
    begin: Callable[[int], TrainState]
    advance: Callable[[TrainState, int], TrainState]
    settle: Callable[[TrainState], Params]
    examine: Callable[[Net, Params], float]


def prepared(recipe: Recipe, folder: Path) -> Arm:
    """Build a recipe and compile its steps, once for all seeds."""
    plain, net, settle = build_net(recipe)
    source, (objective, optimizer, average) = recipe.task.source(recipe, folder), parts_of(recipe)
    step = make_step(net, augmented(objective, source.augment), optimizer, source.draw, average=average)
    begin = jax.jit(lambda key: init_state(net, optimizer, key, average))
    stretch = jax.jit(lambda state, count: repeat(step)(state, None, count)[0], donate_argnums=0)

    def examine(net: Net, params: Params) -> float:
        metrics = source.evaluate(net, params, jax.random.key(0)).metrics
        return metrics.get("exact_match", metrics.get("token_accuracy")).value

    stretch(begin(jax.random.key(0)), 0)
    return Arm(recipe, plain, lambda seed: begin(jax.random.key(seed)), stretch, lambda s: settle(weights(s)), examine)


class Trained(NamedTuple):
    """The plain weights of each seed, their accuracies, and the median seconds of one training."""

    params: list[Params]
    accuracies: list[float]
    seconds: float


def train_all(arms: Mapping[str, Arm], seeds: Sequence[int]) -> dict[str, Trained]:
    """Train every arm with every seed; the arms take turns, so that a noisy neighbour meets all alike."""
    made: dict[str, list[tuple[Params, float, float]]] = {name: [] for name in arms}
    for seed in seeds:
        for name, arm in arms.items():
            state, begun = arm.begin(seed), time.perf_counter()
            state = jax.block_until_ready(arm.advance(state, arm.recipe.train.steps))
            spent = time.perf_counter() - begun
            params = arm.settle(state)
            made[name].append((params, arm.examine(arm.net, params), spent))
    columns = {name: [list(column) for column in zip(*rows, strict=True)] for name, rows in made.items()}
    return {name: Trained(p, a, statistics.median(s)) for name, (p, a, s) in columns.items()}


def ensemble(net: Net) -> Net:
    """Return the net that averages the probabilities of several members, whose parameters have a leading axis."""

    def apply(params: Params, batch: Batch, key: Key | None = None) -> Outputs:
        logits = jax.vmap(lambda member: net.apply(member, batch).logits)(params)
        return Outputs(jnp.log(jnp.mean(jax.nn.softmax(logits), axis=0)))

    return Net(net.init, apply)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % interval (Student)."""
    from scipy.stats import t

    width = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), float(width)


def longer(recipe: Recipe, factor: float) -> Recipe:
    """Return the recipe with so many times its steps."""
    return replace(recipe, train=replace(recipe.train, steps=round(recipe.train.steps * factor)))


# The bars


LAWS = {
    "plain": None,
    "mean": MajorityKernels(law="mean"),
    "dirichlet_1": MajorityKernels(law="dirichlet", concentration=1.0),
    "dirichlet_0.3": MajorityKernels(law="dirichlet", concentration=0.3),
    "choice": MajorityKernels(law="choice"),
    "dirichlet_0.1_of_8": MajorityKernels(factor=8, law="dirichlet", concentration=0.1),
}


def bars(folder: Path, seeds: Sequence[int]) -> dict[str, float]:
    """Train the perceptron under every law and return accuracies and the differences that the claims name."""
    noisy, clean = perceptron(noisy=True), perceptron(noisy=False)
    recipes = {name: noisy if law is None else replace(noisy, transforms=(law,)) for name, law in LAWS.items()} | {
        "clean_plain": clean,
        "clean_uniform": with_copies(clean),
    }
    found = {
        name: trained.accuracies
        for name, trained in train_all({n: prepared(r, folder) for n, r in recipes.items()}, seeds).items()
    }
    figures = summary("perceptron", found)
    mean = {name: statistics.fmean(accuracies) for name, accuracies in found.items()}

    def standard_errors(upper: str, lower: str) -> float:
        both = [statistics.variance(found[name]) / len(seeds) for name in (upper, lower)]
        return (mean[upper] - mean[lower]) / math.sqrt(sum(both))

    return figures | {
        "gain_of_8": mean["dirichlet_0.1_of_8"] - mean["plain"],
        "dirichlet_1_over_plain": mean["dirichlet_1"] - mean["plain"],
        "dirichlet_0.3_in_errors": standard_errors("dirichlet_0.3", "dirichlet_1"),
        "choice_in_errors": standard_errors("choice", "dirichlet_0.3"),
        "mean_difference": abs(mean["mean"] - mean["plain"]),
        "clean_difference": abs(mean["clean_uniform"] - mean["clean_plain"]),
    }


# The comparison


def compare(name: str, small: Recipe, wide: Any, folder: Path, seeds: Sequence[int]) -> dict[str, float]:
    """Train the small model, its copies, its ensemble and its wide relative, then the small ones for longer."""
    recipes = {
        "plain": small,
        "factor_2": with_copies(small, factor=2),
        "factor_3": with_copies(small, factor=3),
        "factor_5": with_copies(small, factor=5),
        "factor_3_shared": with_copies(small, factor=3, initialisation="shared"),
        "wide": replace(small, model=wide),
    }
    arms = {variant: prepared(recipe, folder) for variant, recipe in recipes.items()}
    trained = train_all(arms, seeds)
    others = [seed + ENSEMBLE * 1000 + len(seeds) * more for more in range(1, ENSEMBLE) for seed in seeds]
    plain, members = arms["plain"], trained["plain"].params
    members += train_all({"plain": plain}, others)["plain"].params
    accuracies = {variant: each.accuracies for variant, each in trained.items()}
    voting = ensemble(plain.net)
    accuracies["ensemble"] = [
        plain.examine(voting, jax.tree.map(lambda *x: jnp.stack(x), *members[i :: len(seeds)]))
        for i in range(len(seeds))
    ]
    seconds = {variant: each.seconds for variant, each in trained.items()}
    seconds["ensemble"] = ENSEMBLE * seconds["plain"]
    slowest = max(seconds.values())
    again = {
        f"{variant}_longer": prepared(longer(recipes[variant], slowest / seconds[variant]), folder)
        for variant in ("plain", "factor_3")
    }
    accuracies |= {variant: each.accuracies for variant, each in train_all(again, seeds).items()}
    figures = summary(name, accuracies)
    return figures | {f"{name}_{variant}_seconds": spent for variant, spent in seconds.items()}


def summary(name: str, found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the mean and the half width of its 95 % interval of every variant, and of its paired gain over plain."""
    figures = {}
    for variant, accuracies in found.items():
        mean, half = interval(accuracies)
        figures |= {f"{name}_{variant}": mean, f"{name}_{variant}_half": half}
        if variant != "plain" and not variant.startswith("clean"):
            gains = [a - b for a, b in zip(accuracies, found["plain"], strict=True)]
            figures[f"{name}_{variant}_gain"], figures[f"{name}_{variant}_gain_half"] = interval(gains)
    return figures


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Measure the bars and the comparison, all seeds of a variant with one program."""
    seeds = range(SEEDS * seed, SEEDS * (seed + 1))
    figures = bars(workdir, seeds)
    for name, (small, wide) in small_models().items():
        figures |= compare(name, small, wide, workdir, seeds)
    return figures


def claim(statement: str, metric: str, paper_value: str = "", **bound: float) -> Claim:
    """Return a claim on perceptrons that read digits, over five seeds."""
    return Claim(PAPER, statement, metric, paper_value=paper_value, **bound)


NOISY = "Digits with 40 % wrong training labels, a perceptron that memorises them, test accuracy, mean of 5 seeds: "
MAJORITY_KERNELS = Experiment(
    name="majority_kernels",
    paper=PAPER,
    claims=(
        claim(
            NOISY + "8 copies, Dirichlet(0.1), minus plain",
            "gain_of_8",
            "(our pilot: 0.22)",
            at_least=0.10,
        ),
        claim(NOISY + "3 copies, Dirichlet(1), minus plain", "dirichlet_1_over_plain", at_least=0.0),
        claim(
            NOISY + "Dirichlet(0.3) over Dirichlet(1), in standard errors of the difference",
            "dirichlet_0.3_in_errors",
            at_least=1.0,
        ),
        claim(
            NOISY + "one copy at a time over Dirichlet(0.3), in standard errors of the difference",
            "choice_in_errors",
            at_least=1.0,
        ),
        claim(
            NOISY + "without randomness (equal weights) the copies change little: distance from plain",
            "mean_difference",
            at_most=0.02,
        ),
        claim(
            "200 clean digits, uniform weights, 3 copies: distance of test accuracy from plain, mean of 5 seeds",
            "clean_difference",
            "(our pilot: 0.003)",
            at_most=0.01,
        ),
    ),
    run=run,
    seeds={"cpu": (0,), "full": (0,)},
)
