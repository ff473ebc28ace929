"""What a transformer learns of Boolean functions from the examples in a prompt, beside learners that are exact."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import Recipe
from lm.report.pictures import Lines
from lm.report.svg import Series
from lm.step import EVALUATE, purpose
from lm.strict import override
from lm.train import fit
from lm.types import Array
from tasks.formal.boolean import learners as learners
from tasks.formal.boolean.functions import (
    FAMILIES,
    boolean_conjunction_cpu,
    boolean_conjunction_full,
    boolean_parity_cpu,
    boolean_taught_cpu,
)
from tasks.task import Claim, Experiment

PAPER = "In-context learning of Boolean functions (Bhattamishra et al. 2023)"
PROMPTS = 4000
VOTERS, VOTES = 10_000, 400  # functions drawn from the prior, and prompts that they vote on
Learner = Callable[[Array, Array], Array]
EXACT: Mapping[str, Learner] = {
    "conjunction": learners.conjunction,
    "parity": lambda x_MN, label_M: learners.parity(x_MN, label_M).prediction,
    "taught_conjunction": learners.conjunction,
}
SIMPLE: Mapping[str, Learner] = {
    "nearest neighbour": learners.nearest_neighbour,
    "averaging": learners.averaging,
    "majority": learners.majority,
}

TITLES: Mapping[str, tuple[str, str]] = {
    "conjunction": ("Conjunctions", "elimination"),
    "parity": ("Parities", "Gaussian elimination"),
    "taught_conjunction": ("Conjunctions behind a teaching sequence", "elimination"),
}


def trained(recipe: Recipe, folder: Path, seed: int) -> dict[str, float]:
    """Train a recipe; return how often it and the learners are right after each number of examples."""
    recipe = override(recipe, {"train.seed": seed})
    result, family = fit(recipe, folder / recipe.name, quiet=True), recipe.task.family
    keys = jax.random.split(purpose(jax.random.key(seed), EVALUATE), PROMPTS)
    batch = jax.jit(jax.vmap(recipe.task.sample, (0, None)))(keys, recipe.task.points)
    x_BMN, label_BM = batch.info["points"], batch.info["labels"]

    def model(batch):
        return jnp.argmax(result.net.apply(result.params, batch).logits, axis=-1)[:, ::2] == 1

    parts = jax.tree.map(lambda x: x.reshape(-1, 100, *x.shape[1:]), batch)
    right = {"model": jax.lax.map(jax.jit(model), parts).reshape(label_BM.shape) == label_BM}
    for name, learner in {"exact": EXACT[family], **SIMPLE}.items():
        right[name] = jax.jit(jax.vmap(learner))(x_BMN, label_BM) == label_BM
    drawn = jax.vmap(FAMILIES[family].draw, (0, None))(jax.random.split(jax.random.key(0), VOTERS), x_BMN.shape[2])
    voter = functools.partial(learners.bayes, FAMILIES[family], drawn)
    voted_BM = jax.jit(lambda *pairs: jax.lax.map(lambda pair: voter(*pair), pairs))(x_BMN[:VOTES], label_BM[:VOTES])
    right["vote"] = voted_BM == label_BM[:VOTES]
    found = {
        f"{family}/{name}/{examples}": float(rate)
        for name, rows in right.items()
        for examples, rate in enumerate(rows.mean(axis=0))
    }
    after_B = jnp.minimum(batch.info["taught"], recipe.task.points - 1)
    found[f"{family}/after_lesson"] = float(right["model"][jnp.arange(PROMPTS), after_B].mean())
    return found


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train on conjunctions; on CPU also on parities and on prompts that teach."""
    if scale == "full":
        found = trained(boolean_conjunction_full(), workdir, seed)
        return found | {"last": found["conjunction/model/69"]}
    found: dict[str, float] = {}
    for recipe in (boolean_conjunction_cpu(), boolean_parity_cpu(), boolean_taught_cpu()):
        found |= trained(recipe, workdir, seed)
    last = boolean_conjunction_cpu().task.points - 1
    ends = {name: found[f"conjunction/{name}/{last}"] for name in ("model", "exact", "nearest neighbour")}
    x_BMN, label_BM = parities(seed)
    exact = jax.jit(jax.vmap(learners.parity))(x_BMN, label_BM)
    return found | {
        "last": ends["model"],
        "behind_elimination": ends["exact"] - ends["model"],
        "above_nearest_neighbour": ends["model"] - ends["nearest neighbour"],
        "best_on_parity": max(found[f"parity/model/{examples}"] for examples in range(last + 1)),
        "wrong_where_determined": float(jnp.sum(exact.determined & (exact.prediction != label_BM))),
        "after_lesson": found["taught_conjunction/after_lesson"],
    }


def parities(seed: int) -> tuple[Array, Array]:
    """Return the points and labels of prompts about parities."""
    keys = jax.random.split(jax.random.key(seed), PROMPTS)
    x_BMN, label_BM, _ = jax.jit(jax.vmap(boolean_parity_cpu().task.prompt))(keys)
    return x_BMN, label_BM


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Lines]:
    """Draw how often each learner is right over the number of examples, the median of the seeds."""
    drawn = []
    for family, (title, exact) in TITLES.items():
        shown = {"model": "transformer", "exact": exact, "vote": "vote of functions from the prior"}
        series = []
        for name in (*shown, "nearest neighbour", "averaging"):
            begin = f"{family}/{name}/"
            curve = [float(np.median(values)) for metric, values in figures.items() if metric.startswith(begin)]
            series += [Series(shown.get(name, name), list(range(len(curve))), curve)] if curve else []
        if series:
            drawn.append(Lines(title, series, "examples before the point", "labels right", percent=True))
    return drawn


ICL_BOOLEAN = Experiment(
    name="icl_boolean",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "Conjunctions of 8 literals, 23 examples in the prompt: share of labels right",
            "last",
            at_least=0.95,
            paper_value="near 100 % at 40 to 70 examples",
        ),
        Claim(
            PAPER,
            "That is near the elimination learner: points behind it",
            "behind_elimination",
            at_most=0.03,
            paper_value="close",
        ),
        Claim(
            PAPER,
            "and above the nearest neighbour: points",
            "above_nearest_neighbour",
            at_least=0.10,
        ),
        Claim(
            PAPER,
            "Parities of 8 bits: the best share of labels right after any number of examples",
            "best_on_parity",
            at_most=0.56,
            paper_value="chance",
        ),
        Claim(
            PAPER,
            "Gaussian elimination is right wherever the examples determine the parity: errors in 4,000 prompts",
            "wrong_where_determined",
            at_most=0,
            exact=True,
        ),
        Claim(
            PAPER,
            "Right after a teaching sequence of t + 2 points the label is right",
            "after_lesson",
            at_least=0.97,
        ),
        Claim(
            PAPER,
            "Conjunctions of 28 literals, 69 examples: share of labels right",
            "last",
            at_least=0.98,
            paper_value="near 100 %",
            scale="full",
        ),
    ),
    run=run,
    pictures=pictures,
)
