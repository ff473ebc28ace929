"""Bounded brackets: what a layer must do at every length, and what it does when it is trained on short strings."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import ReaderConfig, Recipe
from lm.models.reader import read
from lm.report.pictures import HeatMap, Lines, Picture
from lm.report.svg import Series
from lm.strict import override
from lm.sweep import run_sweep
from lm.types import Array, Batch, Key, Params
from tasks.formal.dyck.balance import attention, by_hand, closing_accuracy, variation, violation
from tasks.formal.dyck.brackets import (
    BRACKETS,
    START,
    SURE,
    Dyck,
    dyck_balanced_cpu,
    dyck_balanced_full,
    dyck_cpu,
    dyck_full,
    dyck_two_layer_cpu,
    dyck_two_layer_full,
    entropy,
)
from tasks.task import Claim, Experiment

PAPER = "Bounded Dyck grammars (Wen et al. 2023)"
RECIPES = {
    "cpu": (dyck_cpu, dyck_balanced_cpu, dyck_two_layer_cpu),
    "full": (dyck_full, dyck_balanced_full, dyck_two_layer_full),
}
MODELS = {"cpu": 2, "full": 14}  # of each variant and seed
MAPPED = "bare"  # whose attention is shown
ONE_LAYER, TWO_LAYERS = ("pairs", "sums", "angles"), ("placed", "bare")
READ = 60_000  # brackets that an accuracy is measured on, in at most 200 strings
LENGTHS = (28, 60, 125, 250, 500, 1000)
PUMPED = (0, 1, 2, 4, 8, 16, 32, 64, 128)  # pairs of brackets inserted
DRAWN = 32  # strings for every depth at which they are inserted
COMPARED = ("plain", "balanced", "by hand")


class Reading(NamedTuple):
    """A model and what it is examined on."""

    task: Dyck
    config: ReaderConfig
    params: Params

    def accuracy(self, length: int, seed: int = 0) -> float:
        """Return the closing accuracy on strings of one length."""
        task = replace(self.task, length=length, longest=length, pumped=False)
        batch = strings(task, min(200, READ // length), jax.random.key(seed))
        logits_BLV = scores(self.config, self.params, batch.inputs)
        return closing_accuracy(task, logits_BLV, batch.targets, batch.info["closes"], SURE)


@functools.partial(jax.jit, static_argnums=(0, 1))
def strings(task: Dyck, count: int, key: Key) -> Batch:
    """Return so many strings of the task's length."""
    return jax.vmap(lambda key: task.sample(key, jnp.int32(task.length)))(jax.random.split(key, count))


@functools.partial(jax.jit, static_argnums=0)
def scores(config: ReaderConfig, params: Params, features_BLF: Array) -> Array:
    """Return the scores of every next token, [B, L, V]."""
    return read(config, params, features_BLF)[0].logits


def inserted(task: Dyck, depth: int, pairs: int) -> tuple[Array, Array]:
    """Return strings that go up and down, with pairs between the `depth` first brackets and the rest, [DRAWN, L].

    All random kinds are the same whatever the number of pairs. Returns tokens and depths.
    """
    rng = np.random.default_rng(depth)
    up_BD, between_BP = rng.integers(0, task.kinds, (DRAWN, task.depth)), rng.integers(0, task.kinds, (DRAWN, 128))
    between_BT = np.repeat(between_BP[:, :pairs], 2, axis=1) + np.tile([0, task.kinds], pairs)
    kinds_BL = np.concatenate([up_BD[:, :depth], between_BT, up_BD[:, depth:], up_BD[:, ::-1] + task.kinds], axis=1)
    up = np.arange(1, task.depth + 1)
    levels_L = np.concatenate([up[:depth], np.full(2 * pairs, depth + 1), up[depth:], up[::-1]])
    return jnp.asarray(BRACKETS + kinds_BL), jnp.broadcast_to(jnp.asarray(levels_L), kinds_BL.shape)


def pumping(reading: Reading) -> dict[str, float]:
    """Return, by pairs inserted, closing accuracy and the change of predictions: total variation from none inserted."""
    task, found = reading.task, {}
    right_PD, change_PD = np.zeros((len(PUMPED), task.depth)), np.zeros((len(PUMPED), task.depth))
    for depth in range(task.depth):
        before_BLV = None
        for row, pairs in enumerate(PUMPED):
            tokens_BL, depths_BL = inserted(task, depth, pairs)
            inputs = jax.vmap(task.read_all)(tokens_BL[:, :-1], depths_BL[:, :-1])
            logits_BLV = scores(reading.config, reading.params, inputs)[:, depth + 2 * pairs :]
            later_BL = tokens_BL[:, depth + 2 * pairs :]
            closes_BL = later_BL >= BRACKETS + task.kinds
            right_PD[row, depth] = closing_accuracy(task, logits_BLV, later_BL, closes_BL, SURE)
            chances_BLV = jax.nn.softmax(logits_BLV)
            before_BLV = chances_BLV if before_BLV is None else before_BLV
            change_PD[row, depth] = 0.5 * jnp.abs(chances_BLV - before_BLV).sum(axis=-1).mean()
    for row, pairs in enumerate(PUMPED):
        found[f"accuracy/pairs={pairs}"] = float(right_PD[row].mean())
        found[f"change/pairs={pairs}"] = float(change_PD[row].mean())
    return found


def trained(recipe: Recipe, form: str, seeds: Sequence[int]) -> list[tuple[Reading, float]]:
    """Return models trained with these seeds, and their last losses."""
    recipe = override(recipe, {"task.form": form})
    assert isinstance(recipe.model, ReaderConfig)
    members = run_sweep(recipe, {}, seeds).members
    return [(Reading(recipe.task, recipe.model, m.state.params), m.losses[-1][1]) for m in members]


def examined(models: Sequence[tuple[Reading, float]]) -> dict[str, list[float]]:
    """Return accuracies at the training's and the greatest length, loss, and of one layer the balance violation."""
    task = models[0][0].task
    found = {
        "accuracy@28": [reading.accuracy(task.length) for reading, _ in models],
        "accuracy@300": [reading.accuracy(task.longest) for reading, _ in models],
        "loss": [loss for _, loss in models],
    }
    if models[0][0].config.depth == 1:
        found["violation"] = [violation(*reading) for reading, _ in models]
    return found


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train a population of every variant; compare their attention, balance, lengths and what pumping changes."""
    plain, balanced, two_layers = (make() for make in RECIPES[scale])
    seeds = range(MODELS[scale] * seed, MODELS[scale] * (seed + 1))
    population = {form: trained(plain, form, seeds) for form in ONE_LAYER}
    population |= {f"{form} balanced": trained(balanced, form, seeds) for form in ONE_LAYER}
    population |= {form: trained(two_layers, form, seeds) for form in TWO_LAYERS}
    measured = {name: examined(models) for name, models in population.items()}
    varied = {name: variation([attention(*r) for r, _ in models]) for name, models in population.items()}
    figures = {f"{m}/{name}": float(np.mean(v)) for name, found in measured.items() for m, v in found.items()}
    figures |= {f"variation/{name}": value for name, value in varied.items()}
    figures |= summary(measured, varied)
    hand = Reading(plain.task, *by_hand(plain.task))
    compared = dict(zip(COMPARED, (population["pairs"][0][0], population["pairs balanced"][0][0], hand), strict=True))
    for name, reading in compared.items():
        figures |= {f"length/{name}/brackets={length}": reading.accuracy(length) for length in LENGTHS}
        figures |= {f"pumping/{name}/{key}": value for key, value in pumping(reading).items()}
    for number, (reading, _) in enumerate(population[MAPPED][:2]):
        figures |= maps_as_figures(f"attention/model={number}", attention(*reading))
    return figures | {
        "entropy_at_28": entropy(plain.task.length, plain.task.kinds, plain.task.depth),
        "by_hand_accuracy": min(hand.accuracy(length) for length in (28, 1000)),
        "by_hand_violation": violation(*hand),
        "by_hand_change": figures[f"pumping/by hand/change/pairs={PUMPED[-1]}"],
    }


def summary(measured: Mapping[str, Mapping[str, Sequence[float]]], varied: Mapping[str, float]) -> dict[str, float]:
    """Return the figures that claims name, of the population of one seed."""
    from scipy.stats import spearmanr

    plain, balanced = measured["pairs"], measured["pairs balanced"]
    one_layer = [*ONE_LAYER, *(f"{form} balanced" for form in ONE_LAYER)]
    all_of = {m: [value for name in one_layer for value in measured[name][m]] for m in ("violation", "accuracy@300")}
    return {
        "accuracy_at_28": min(*plain["accuracy@28"], *balanced["accuracy@28"]),
        "two_layer_accuracy_at_28": float(np.mean([measured[form]["accuracy@28"] for form in TWO_LAYERS])),
        "gain_at_300": float(np.mean(balanced["accuracy@300"]) - np.mean(plain["accuracy@300"])),
        "violation_left": float(np.mean(balanced["violation"]) / np.mean(plain["violation"])),
        "variation_ratio": float(
            np.mean([varied[form] for form in TWO_LAYERS]) / np.mean([varied[form] for form in ONE_LAYER])
        ),
        "violation_to_accuracy": float(spearmanr(all_of["violation"], all_of["accuracy@300"]).statistic),
    }


def maps_as_figures(name: str, map_TT: np.ndarray) -> dict[str, float]:
    """Return the lower triangle of an attention map, each place a figure."""
    return {f"{name}/{q},{k}": round(float(map_TT[q, k]), 3) for q, k in product(*map(range, map_TT.shape)) if k <= q}


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Picture]:
    """Return accuracy by length, what pumping does, balance against long strings, and two attention maps."""

    def curve(name: str, pattern: str, x: Sequence[int]) -> Series:
        values = [figures[pattern.format(name, at)] for at in x]
        means = [float(np.mean(each)) for each in values]
        return Series(name, x, means, [min(each) for each in values], [max(each) for each in values])

    def curves(title: str, pattern: str, x: Sequence[int], x_label: str, y_label: str) -> Lines:
        series = [curve(name, pattern, x) for name in COMPARED]
        return Lines(title, series, x_label, y_label, log_x=True, percent=True, caption="Mean and range of the seeds.")

    names = [*ONE_LAYER, *(f"{form} balanced" for form in ONE_LAYER)]
    clouds = [Series(name, figures[f"violation/{name}"], figures[f"accuracy@300/{name}"]) for name in names]
    of_pairs, inserted = "pairs of brackets inserted", PUMPED[1:]
    return [
        curves("Length generalisation", "length/{}/brackets={}", LENGTHS, "brackets", "closing accuracy"),
        curves("Pumping: accuracy", "pumping/{}/accuracy/pairs={}", inserted, of_pairs, "closing accuracy"),
        curves("Pumping: change", "pumping/{}/change/pairs={}", inserted, of_pairs, "change of predictions"),
        Lines(
            "Balance and long strings", clouds, "balance violation", "accuracy at 300", percent=True, joined=False,
            caption="Each point is the mean over the models of a seed.",
        ),
        maps_as_picture(figures),
    ]  # fmt: skip


def maps_as_picture(figures: Mapping[str, Sequence[float]]) -> HeatMap:
    """Return the attention of two models of the first seed side by side."""
    task = dyck_two_layer_cpu().task
    up, kinds = range(task.depth), task.kinds
    string = [START, *(BRACKETS + kind + shift for kind in range(2) for shift in (0, kinds) for _ in up)]
    names = task.spell(string).split()
    blank: list[float | None] = [None]
    rows = [
        [figures[f"attention/model=0/{q},{k}"][0] if k <= q else None for k in range(len(names))]
        + blank
        + [figures[f"attention/model=1/{q},{k}"][0] if k <= q else None for k in range(len(names))]
        for q in range(len(names))
    ]
    return HeatMap(
        "Attention of the second layer of two models that are equally good",
        rows, names, [*names, "", *names], "query", "key: one model, and the other", high=1.0,
        caption="Two layers without positions, trained alike but for the seed.",
    )  # fmt: skip


def claims() -> tuple[Claim, ...]:
    """Return what the paper's sheet holds training to, at both scales, and what weights by hand must do."""
    one_layer = "Behind a perfect first layer one layer closes brackets of two kinds, four deep"
    varies = "The second layer's attention varies between models trained alike: over that behind a perfect first layer"
    related = "Violation of balance and accuracy at 300 brackets, all one-layer models of a seed: rank correlation"
    gains = "Holding predictions equal behind a balanced string raises the accuracy at 300 brackets: points gained"
    halves, two_layers = "It at least halves the balance violation: share left", "Two layers: accuracy at 28 brackets"
    enough = "Uniform attention is enough: weights by hand close every bracket at 28 and at 1,000 brackets"
    pumped = "Inserting 128 pairs changes nothing that weights by hand predict: total variation"

    def at_least(statement: str, metric: str, bar: float, paper: str = "", **rest: Any) -> Claim:
        return Claim(PAPER, statement, metric, at_least=bar, paper_value=paper, **rest)

    def at_most(statement: str, metric: str, bar: float, paper: str = "", **rest: Any) -> Claim:
        return Claim(PAPER, statement, metric, at_most=bar, paper_value=paper, **rest)

    with_and_without = f"{one_layer}: accuracy at 28 brackets, with and without the balance term, the worst model"
    full = {"scale": "full"}
    return (
        at_least(with_and_without, "accuracy_at_28", 0.995, rule="worst"),
        at_least(gains, "gain_at_300", 0.05, "(our pilot: 0.85 to 0.97)", rule="mean"),
        at_most(halves, "violation_left", 0.5, "(our pilot: 0.51 to 0.15)", rule="mean"),
        at_least(enough, "by_hand_accuracy", 1.0, exact=True),
        at_most("and are perfectly balanced", "by_hand_violation", 0.0, exact=True),
        at_most(pumped, "by_hand_change", 1e-6, exact=True),
        at_least(two_layers, "two_layer_accuracy_at_28", 0.97, "(about 97 %)", rule="mean"),
        at_least(varies, "variation_ratio", 5.0, "about 2.2 over 0.2 to 0.35"),
        at_most(related, "violation_to_accuracy", -0.5, "negative"),
        at_least(two_layers, "two_layer_accuracy_at_28", 0.97, "(about 97 %)", rule="mean", **full),
        at_least(varies, "variation_ratio", 5.0, "about 2.2 over 0.2 to 0.35", **full),
        at_most(related.replace("300", "500"), "violation_to_accuracy", -0.5, "negative", **full),
        at_least(gains.replace("300", "500"), "gain_at_300", 0.03, rule="mean", **full),
    )


DYCK = Experiment(name="dyck", paper=PAPER, claims=claims(), run=run, pictures=pictures)
