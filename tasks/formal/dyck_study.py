"""Bounded brackets: what a layer must do at every length, and what it does when it is trained on short strings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import ReaderConfig, Recipe
from lm.models import build
from lm.models.reader import attention_of
from lm.sweep import run_sweep
from lm.types import Params
from tasks.formal.dyck import START, SURE, Dyck, dyck_balanced_cpu, dyck_cpu, entropy
from tasks.formal.dyck_balance import by_hand, canonical, closing_accuracy, variation, violation
from tasks.task import Claim, Experiment

PAPER = "Bounded Dyck grammars (Wen et al. 2023)"
STRINGS = 200  # of each length that a layer is examined on
MODELS = 2  # trained for each objective and seed, to compare their attention


def accuracy(task: Dyck, config: ReaderConfig, params: Params, length: int, seed: int = 0) -> float:
    """Return the closing accuracy on strings of one length."""
    keys = jax.random.split(jax.random.key(seed), STRINGS)
    batch = jax.jit(jax.vmap(lambda key: Dyck(task.kinds, task.depth, length, length).sample(key, length)))(keys)
    logits_BLV = jax.jit(build(config).apply)(params, batch).logits
    return closing_accuracy(task, logits_BLV, batch.targets, batch.info["closes"], SURE)


def trained(recipe: Recipe, seed: int) -> dict[str, float]:
    """Train a few models; return mean accuracies, balance violation and loss, and how their attention varies."""
    members = run_sweep(recipe, {}, range(MODELS * seed, MODELS * (seed + 1))).members
    task, config = recipe.task, recipe.model
    ids_1T = jnp.concatenate([jnp.full(1, START), task.ids(*canonical(task))])[None]
    maps = [attention_of(config, member.state.params, ids_1T)[0][0] for member in members]
    found = {
        f"accuracy@{length}": [accuracy(task, config, member.state.params, length) for member in members]
        for length in (task.length, task.longest)
    }
    found["violation"] = [violation(task, config, member.state.params) for member in members]
    found["loss"] = [member.losses[-1][1] for member in members]
    return {name: float(np.mean(values)) for name, values in found.items()} | {"variation": variation(maps)}


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train with and without the term on balanced strings; examine the weights by hand."""
    plain, balanced = trained(dyck_cpu(), seed), trained(dyck_balanced_cpu(), seed)
    task = dyck_cpu().task
    config, params = by_hand(task)
    return {
        **{f"plain_{name}": value for name, value in plain.items()},
        **{f"balanced_{name}": value for name, value in balanced.items()},
        "accuracy_at_28": min(plain["accuracy@28"], balanced["accuracy@28"]),
        "gain_at_300": balanced["accuracy@300"] - plain["accuracy@300"],
        "violation_left": balanced["violation"] / plain["violation"],
        "entropy_at_28": entropy(task.length, task.kinds, task.depth),
        "by_hand_accuracy": min(accuracy(task, config, params, length) for length in (28, 1000)),
        "by_hand_violation": violation(task, config, params),
    }


DYCK = Experiment(
    name="dyck",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "Behind a perfect first layer one layer closes brackets of two kinds, four deep: accuracy at 28 brackets, "
            "with and without the balance term",
            "accuracy_at_28",
            at_least=0.995,
            rule="worst",
        ),
        Claim(
            PAPER,
            "Holding predictions equal behind a balanced string raises the accuracy at 300 brackets: points gained",
            "gain_at_300",
            at_least=0.05,
            paper_value="(our pilot: 0.85 to 0.97)",
            rule="mean",
        ),
        Claim(
            PAPER,
            "It at least halves the balance violation: share left",
            "violation_left",
            at_most=0.5,
            paper_value="(our pilot: 0.51 to 0.15)",
            rule="mean",
        ),
        Claim(
            PAPER,
            "Uniform attention is enough: weights by hand close every bracket at 28 and at 1,000 brackets",
            "by_hand_accuracy",
            at_least=1.0,
            exact=True,
        ),
        Claim(PAPER, "and are perfectly balanced", "by_hand_violation", at_most=0.0, exact=True),
    ),
    run=run,
)
