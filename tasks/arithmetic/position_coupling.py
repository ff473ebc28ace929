"""Position coupling: a layer trained on short sums adds long ones when digits of a significance share their id.

Cho et al. 2024 (arXiv 2405.20671). Exact match by length beyond training, against no positions and against
consecutive ids from a random start; and weights by hand that add at every length.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import Recipe
from lm.strict import override
from lm.train import fit
from lm.types import Array, Batch, Example, Params
from tasks.arithmetic.addition import (
    Addition,
    addition_cpu,
    addition_full,
    addition_plain_cpu,
    addition_random_start_cpu,
)
from tasks.arithmetic.addition_construction import construct
from tasks.build import numeral
from tasks.score import exact_match
from tasks.task import Claim, Experiment

PAPER = "Position coupling (Cho et al. 2024)"
LONG = Addition(longest_test=100, max_position=110)
LONGEST = Addition(longest_test=1000, max_position=1010)


def long_sums(task: Addition, count: int, start: Array | int) -> Batch:
    """Return 99...9 + 1 and random sums of two numbers of the longest test's digits, with ids from `start`."""
    digits = task.longest_test
    bits = jax.random.bits(jax.random.key(0), (count, 2, digits))
    drawn = jax.vmap(jax.vmap(lambda bits_W: numeral(bits_W, digits)))(bits)
    carries = jnp.zeros((1, 2, digits), jnp.int32).at[0, 0].set(9).at[0, 1, 0].set(1)
    return jax.vmap(lambda pair: task.write(pair, digits, start))(jnp.concatenate([carries, drawn]))


def construction_exact_match(task: Addition, count: int, sharpness: float = 20.0) -> float:
    """Return the exact match of the weights by hand on long sums, with ids from 1 and up to the largest."""
    net, params = construct(task, sharpness)

    # The weights are an argument: as constants of a program they may be compiled wrongly (docs/LOG.md).
    @jax.jit
    def grade(params: Params, start: Array) -> Array:
        def right(example: Example) -> Array:
            batch = jax.tree.map(lambda x: x[None], example)
            return exact_match(jnp.argmax(net.apply(params, batch).logits[0], axis=-1), example)

        return jax.lax.map(right, long_sums(task, count, start)).mean()

    return float(np.mean([grade(params, start) for start in (1, task.starts(task.longest_test))]))


def by_digits(recipe: Recipe, folder: Path, seed: int) -> dict[str, float]:
    """Train a recipe and return its exact match at every number of digits."""
    recipe = override(recipe, {"train.seed": seed})
    slices = fit(recipe, folder / recipe.name, quiet=True).evaluation.slices[Addition.size_name]
    return {digits: found["exact_match"].value for digits, found in slices.items()}


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train with coupled ids; on CPU also without positions and with consecutive ids, and try the weights by hand."""
    if scale == "full":
        return {f"coupled@{n}": value for n, value in by_digits(addition_full(), workdir, seed).items()}
    coupled = by_digits(addition_cpu(), workdir, seed)
    return {
        **{f"coupled@{n}": value for n, value in coupled.items()},
        "no_positions@12": by_digits(addition_plain_cpu(), workdir, seed)["12"],
        "random_start@12": by_digits(addition_random_start_cpu(), workdir, seed)["12"],
        "construction": construction_exact_match(LONG, 1000),
        "blunt_construction": construction_exact_match(LONG, 10, sharpness=0.0),
    }


POSITION_COUPLING = Experiment(
    name="position_coupling",
    paper=PAPER,
    claims=(
        *(
            Claim(
                PAPER,
                f"One layer trained on sums of 1-10 digits: exact match at {digits} digits",
                f"coupled@{digits}",
                at_least=bar,
                paper_value=f"(our pilot: {pilot})",
            )
            for digits, bar, pilot in ((10, 0.98, "1.00"), (15, 0.75, "0.98"), (20, 0.40, "0.76"))
        ),
        Claim(
            PAPER,
            "The same layer without positions: exact match at 12 digits",
            "no_positions@12",
            at_most=0.05,
            paper_value="near 0",
            rule="worst",
        ),
        Claim(
            PAPER,
            "The same layer with consecutive ids from a random start: exact match at 12 digits",
            "random_start@12",
            at_most=0.05,
            paper_value="near 0",
            rule="worst",
        ),
        Claim(
            PAPER,
            "Weights by hand add 99...9 + 1 and 1,000 pairs of 100 digits, with low and high ids: exact match",
            "construction",
            at_least=1.0,
            paper_value="such weights exist",
            exact=True,
        ),
        Claim(
            PAPER,
            "Their heads must be sharp: exact match with all scores 0",
            "blunt_construction",
            at_most=0.0,
            exact=True,
        ),
        Claim(
            PAPER,
            "One layer of width 512 trained on sums of 1-30 digits: exact match at 200 digits",
            "coupled@200",
            at_least=0.95,
            paper_value="above 0.95",
            scale="full",
        ),
    ),
    run=run,
    seeds={"cpu": (0, 1, 2), "full": (0, 1, 2, 3)},
)

COUPLING_CONSTRUCTION = Experiment(
    name="coupling_construction",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "Weights by hand add 99...9 + 1 and 20 pairs of 1,000 digits, with low and high ids: exact match",
            "construction",
            at_least=1.0,
            paper_value="such weights exist",
            exact=True,
        ),
    ),
    run=lambda workdir, scale, seed: {"construction": construction_exact_match(LONGEST, 20)},
    seeds={"cpu": (0,), "full": (0,)},
)
