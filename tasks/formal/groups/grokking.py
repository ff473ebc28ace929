"""Grokking on modular addition: first the table is memorised, long after it is understood, as a sum of characters.

Power et al. 2022 (arXiv 2201.02177) saw it; Chughtai et al. 2023 (arXiv 2302.03025) say what is learned: the logits
of c become sums of characters of the group, cos(2 pi k (a + b - c) / p) for a few frequencies k.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from lm.config import Recipe
from lm.strict import override
from lm.train import prepare
from lm.types import Net, Params
from tasks.formal.groups.modular_arithmetic import modular_arithmetic_cpu, modular_arithmetic_full, table
from tasks.formal.groups.operations import all_scores
from tasks.formal.groups.representations import likeness
from tasks.task import Claim, Experiment

PAPER = "Grokking (Power et al. 2022; Chughtai et al. 2023)"
EVERY = 100  # steps between two looks
UNDERSTOOD = 0.99


def character(modulus: int, frequency: int) -> np.ndarray:
    """Return the character tensor chi[a, b, c] = cos(2 pi k (a + b - c) / p) of a frequency k."""
    n = np.arange(modulus)
    sums = n[:, None, None] + n[None, :, None] - n[None, None, :]
    return np.cos(2 * np.pi * frequency * sums / modulus)


def explained(scores: np.ndarray) -> np.ndarray:
    """Return the share of the variance of scores [p, p, p], centred over c, along each character k = 1..(p-1)/2."""
    modulus = scores.shape[0]
    return np.array([likeness(scores, character(modulus, k)) ** 2 for k in range(1, (modulus + 1) // 2)])


def by_hand(modulus: int, frequency: int) -> np.ndarray:
    """Return the scores of a network that knows one frequency: its units multiply cosines and sines of a and of b."""
    angles = 2 * np.pi * frequency * np.arange(modulus) / modulus
    cos, sin = np.cos(angles), np.sin(angles)
    cos_sum = np.outer(cos, cos) - np.outer(sin, sin)
    sin_sum = np.outer(sin, cos) + np.outer(cos, sin)
    return np.multiply.outer(cos_sum, cos) + np.multiply.outer(sin_sum, sin)


def train_until_understood(recipe: Recipe, folder: Path) -> tuple[dict[str, float], Net, Params]:
    """Train until the held-out rows are right or the steps are over; a step beyond the last one means never."""
    run = prepare(recipe, folder)
    state, steps, never = run.init(), recipe.train.steps, recipe.train.steps + EVERY
    found = {"train_step": never, "test_step": never}
    for step in range(EVERY, steps + 1, EVERY):
        state, metrics = run.stretch(state, None, EVERY)
        if metrics["accuracy"].value >= UNDERSTOOD:
            found["train_step"] = min(found["train_step"], step)
        evaluation = run.source.evaluate(run.net, state.params, jax.random.key(0))
        found["test_accuracy"] = evaluation.metrics["exact_match"].value
        if found["test_accuracy"] >= UNDERSTOOD:
            found["test_step"] = step
            break
    return found, run.net, state.params


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train with weight decay 1 and with none; on CPU also take the logits apart."""
    recipe = override(modular_arithmetic_cpu() if scale == "cpu" else modular_arithmetic_full(), {"train.seed": seed})
    if scale == "cpu":
        recipe = override(recipe, {"train.steps": 15_000})
    figures, net, params = train_until_understood(recipe, workdir)
    forgetful, _, _ = train_until_understood(override(recipe, {"optimizer.weight_decay": 0.0}), workdir)
    figures |= {
        "delay": figures["test_step"] / figures["train_step"],
        "test_accuracy_without_decay": forgetful["test_accuracy"],
    }
    if scale == "cpu":
        p = recipe.task.modulus
        right = [np.argmax(by_hand(p, k), axis=2).ravel() == table("add", p)[:, 2] for k in range(1, p)]
        figures |= {
            "characters": explained(all_scores(net, params, recipe.task)).sum(),
            "by_hand": np.mean(right),
        }
    return figures


GROKKING = Experiment(
    name="grokking",
    paper="Grokking (Power et al. 2022; Chughtai et al. 2023)",
    claims=(
        Claim(
            PAPER,
            "Addition mod 59, half of the table, weight decay 1: steps until 99 % of the held-out rows are right",
            "test_step",
            at_most=15_000,
            paper_value="(our pilot: 8,500)",
        ),
        Claim(
            PAPER,
            "The held-out rows come long after the rows trained on: ratio of the steps at which each is 99 % right",
            "delay",
            at_least=10,
            paper_value="10 to 1000",
        ),
        Claim(
            PAPER,
            "Without weight decay the held-out rows stay wrong for 15,000 steps",
            "test_accuracy_without_decay",
            at_most=0.05,
            paper_value="(our pilot: 0.01)",
        ),
        Claim(
            PAPER,
            "Characters of the group explain the logits: share of their variance",
            "characters",
            at_least=0.60,
            paper_value="0.94 for C113 at the end of training",
        ),
        Claim(
            PAPER,
            "One frequency suffices: scores cos(2 pi k (a+b-c)/p) are right on every row for every k",
            "by_hand",
            at_least=1.0,
            exact=True,
        ),
        Claim(
            PAPER,
            "Division mod 97, half of the table, weight decay 1: steps until 99 % of the held-out rows are right",
            "test_step",
            at_most=100_000,
            paper_value="1e4 to 1e5",
            scale="full",
        ),
    ),
    run=run,
)
