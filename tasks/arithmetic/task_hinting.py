"""Task hinting: easier questions about the same lists, and sharper attention, carry sorting beyond the lengths trained.

Awasthi and Gupta 2023 (arXiv 2310.00726). Exact match by length, how the first mistake comes about, and what a linear
map reads off the residual stream where a list is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from lm.config import Recipe, Tempered, TransformerConfig
from lm.look import STREAM
from lm.observe import observe
from lm.probe import linear_probe
from lm.report.pictures import Lines
from lm.step import EVALUATE, purpose
from lm.strict import override
from lm.train import Result, fit
from lm.types import Array, Key, Params
from tasks.arithmetic.sorting import FIRST, MISTAKES, Sorting, hinted, sorting_cpu
from tasks.build import below
from tasks.lengths import accuracy_picture, by_size
from tasks.lengths import figures as figures_of
from tasks.task import Claim, Experiment

PAPER = "Task hinting (Awasthi and Gupta 2023)"
NUMBERS = Sorting.size_name
FAR = (30, 40)  # where mistakes are told apart
PROBED, PROBES = (10, 20, 30, 40), 1500  # lengths of lists that are probed, and how many lists of each


def arms() -> dict[str, Recipe]:
    """Return what is compared; all see as many sorted lists."""
    base = sorting_cpu()
    plain = replace(base, task=replace(base.task, test_count=256))
    sharp = replace(plain, model=replace(plain.model, tempered=Tempered(plain.task.train_length)))
    return {
        "no_hint": plain,
        "count": hinted(plain, "count"),
        "temperature": sharp,
        "count_temperature": hinted(sharp, "count"),
        "successor": hinted(plain, "successor"),
    }


@partial(jax.jit, static_argnums=(0, 1))
def read_at_output(
    config: TransformerConfig, task: Sorting, params: Params, key: Key, size: Array
) -> tuple[Array, Array, Array]:
    """Return what each layer hands on at one number of every answer, [N, M, D], that number and the next one, [M]."""
    batch = jax.vmap(lambda i: task.test_example(key, i, size))(jnp.arange(PROBES))
    places_M = batch.info["begin"] + below(jax.random.bits(jax.random.fold_in(key, PROBES), (PROBES,)), size - 1)
    stream_NMLD = observe(config, params, batch, f"^{STREAM}$")[STREAM]
    rows_M = jnp.arange(PROBES)
    current_M, next_M = (tokens_ML[rows_M, places_M] - FIRST for tokens_ML in (batch.inputs, batch.targets))
    return stream_NMLD[:, rows_M, places_M], current_M, next_M


def probes(arm: str, recipe: Recipe, result: Result, key: Key) -> dict[str, float]:
    """Return how well a linear map reads off each layer the number just written and the one to write, by length."""
    assert isinstance(recipe.model, TransformerConfig)
    task, figures, shuffled = arms()["no_hint"].task, {}, []
    for size in PROBED:
        key_lists, key_probe = jax.random.split(jax.random.fold_in(key, size))
        streams_NMD, *labels = read_at_output(recipe.model, task, result.params, key_lists, jnp.int32(size))
        for name, labels_M in zip(("current", "next"), labels, strict=True):
            for layer, stream_MD in enumerate(streams_NMD, 1):
                found = linear_probe(stream_MD, labels_M, key_probe)
                figures[f"probe/{name}/layer {layer}/{arm}@{size}"] = found.accuracy
                shuffled.append(found.shuffled)
    return figures | {f"probe/shuffled labels/{arm}": max(shuffled)}


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train every arm; return exact match by length, kinds of mistakes at long lists, and probes."""
    figures: dict[str, float] = {}
    key = purpose(jax.random.key(seed), EVALUATE)
    for arm, recipe in arms().items():
        recipe = override(recipe, {"train.seed": seed})
        result = fit(recipe, workdir / arm, quiet=True)
        assert result.evaluation is not None
        by_kind = {kind: by_size(result.evaluation, NUMBERS, kind) for kind in ("exact_match", *MISTAKES)}
        figures |= figures_of(by_kind["exact_match"], Sorting.name, arm, recipe.task.train_sizes[1])
        figures |= {f"{kind}/{arm}@{size}": by_kind[kind][size] for kind in MISTAKES for size in FAR}
        figures |= probes(arm, recipe, result, key)
    hints = max(figures["count@30"], figures["count_temperature@30"])
    return figures | {"hint_gain@30": hints - figures["no_hint@30"]}


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Lines]:
    """Return exact match by length of all arms."""
    return [
        accuracy_picture(
            figures,
            list(arms()),
            title="Sorting beyond lists of 10",
            size_name=NUMBERS,
            trained=sorting_cpu().task.train_sizes,
        )
    ]


def _claim(statement: str, metric: str, bar: float, pilot: str, rule: str = "median") -> Claim:
    return Claim(PAPER, statement, metric, at_least=bar, paper_value=f"(our pilot: {pilot})", rule=rule)


TASK_HINTING = Experiment(
    name="task_hinting",
    paper=PAPER,
    claims=(
        _claim(
            "Sorting trained on lists of 2-10 numbers: exact match at 30 with counting as a hint (with or without a "
            "sharper softmax, the better), minus that without hints",
            "hint_gain@30",
            0.25,
            "0.53",
            "mean",
        ),
        *(
            _claim(
                f"Scores that grow with the logarithm of the length, no hint: exact match at {size} numbers",
                f"temperature@{size}",
                bar,
                pilot,
            )
            for size, bar, pilot in ((30, 0.75, "0.87"), (40, 0.4, "0.58"))
        ),
    ),
    run=run,
    pictures=pictures,
)
