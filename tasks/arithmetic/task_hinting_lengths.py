"""Length-dependent parameters: what sharper attention is worth to sorting, learned in training or fitted afterwards.

Awasthi and Gupta 2023 (arXiv 2310.00726). No hints here: the same lists of 2-10 numbers, examined to 50.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from lm.config import Recipe, Tempered
from lm.report.pictures import Lines
from lm.step import EVALUATE, purpose
from lm.strict import override
from lm.train import fit
from lm.transforms import fit_sharpness, sharpen
from lm.types import Array, Key, Net, Params
from tasks.arithmetic.sorting import Sorting
from tasks.arithmetic.task_hinting import PAPER, arms
from tasks.lengths import accuracy_picture, by_size
from tasks.lengths import figures as figures_of
from tasks.task import Claim, Experiment

ARMS = ("no_hint", "fitted", "learned")
FACTORS = tuple(1 + i / 20 for i in range(21))  # what scores may be multiplied by at one length
EXAMPLES = 32  # lists of that length which choose the factor


def recipes() -> dict[str, Recipe]:
    """Return what is trained: the arm without hints, and the same with a temperature that each layer learns."""
    plain = arms()["no_hint"]
    return {"no_hint": plain, "learned": replace(plain, model=replace(plain.model, tempered=Tempered()))}


@partial(jax.jit, static_argnums=(0, 1))
def sharpened_match(net: Net, task: Sorting, params: Params, key: Key, size: Array) -> tuple[Array, Array]:
    """Return the factor that suits lists of one length, and the exact match of the scores so sharpened on others."""
    key_fit, key_test = jax.random.split(jax.random.fold_in(key, size))
    seen, unseen = (
        jax.vmap(task.sample_test, (0, None))(jax.random.split(key_lists, count), size)
        for key_lists, count in ((key_fit, EXAMPLES), (key_test, task.test_count))
    )
    factor = fit_sharpness(net, params, seen, jnp.asarray(FACTORS))
    said_BL = jnp.argmax(net.apply(sharpen(params, factor), unseen).logits, axis=-1)
    return factor, jnp.mean(jax.vmap(task.score)(said_BL, unseen)["exact_match"])


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train both recipes, and fit a factor for every length to the one that has no temperature."""
    figures: dict[str, float] = {}
    trained = arms()["no_hint"].task.train_sizes[1]
    for arm, recipe in recipes().items():
        result = fit(override(recipe, {"train.seed": seed}), workdir / arm, quiet=True)
        assert result.evaluation is not None
        figures |= figures_of(by_size(result.evaluation, Sorting.size_name), Sorting.name, arm, trained)
        if arm == "learned":
            taus_N = result.params["blocks"]["attention"]["temper"]["tau"]
            figures |= {f"tau/layer {layer}": float(tau) for layer, tau in enumerate(taus_N, 1)}
        else:
            key, task = purpose(jax.random.key(seed), EVALUATE), recipe.task
            fitted = {n: sharpened_match(result.net, task, result.params, key, jnp.int32(n)) for n in task.test_sizes}
            figures |= {f"factor@{n}": float(factor) for n, (factor, _) in fitted.items()}
            figures |= figures_of(
                {n: float(match) for n, (_, match) in fitted.items()}, Sorting.name, "fitted", trained
            )
    return figures | {f"{arm}_gain@30": figures[f"{arm}@30"] - figures["no_hint@30"] for arm in ARMS[1:]}


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Lines]:
    """Return exact match by length of all arms."""
    trained = arms()["no_hint"].task.train_sizes
    title = "Sorting beyond lists of 10, by how attention gets sharper"
    return [accuracy_picture(figures, ARMS, title=title, size_name=Sorting.size_name, trained=trained)]


TASK_HINTING_LENGTHS = Experiment(
    name="task_hinting_lengths",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "Sorting trained on lists of 2-10 numbers, scores at 30 times one factor fitted on 32 lists: exact match "
            "minus that without it",
            "fitted_gain@30",
            at_least=0.2,
            paper_value="(our pilot: 0.42)",
        ),
    ),
    run=run,
    pictures=pictures,
)
