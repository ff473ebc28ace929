"""How deep a transformer must be to follow a chain, which questions teach it to, and which heads do it.

Musat 2025 (arXiv 2411.12118). A head at a place looks at a pair where it attends to its key or its value.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import Recipe, TransformerConfig
from lm.observe import observe
from lm.report.pictures import HeatMap, Lines, Picture
from lm.report.svg import Series
from lm.report.writer import read_rows
from lm.strict import override
from lm.train import Result, fit
from tasks.formal.search.retrieval import Retrieval, retrieval_cpu, retrieval_full
from tasks.formal.search.retrieval_construction import construct, doubled
from tasks.task import Claim, Experiment

PAPER = "The Retrieval Problem (Musat 2025)"
LOOKS = 20  # at what is learnt, over a run
LEARNT = 0.9
ARMS = {
    "cpu": ((1, "all"), (2, "all"), (3, "all"), (3, "last")),
    "full": tuple(itertools.product(range(1, 7), ("all", "last", "random"))),
}


def fewest_layers(hops: int) -> int:
    """Return the layers that any network needs, ceil(log3(2 hops)): a layer joins at most three parts of a chain."""
    return next(layers for layers in itertools.count() if 3**layers >= 2 * hops)


def shares(recipe: Recipe, result: Result, count: int = 256) -> dict[str, float]:
    """Return, for each layer, the mean attention of the head that attends most: from values to the token before, and
    from the place that is asked for the most hops to the pair of each hop."""
    task = recipe.task
    assert isinstance(recipe.model, TransformerConfig)
    keys = jax.random.split(jax.random.key(recipe.train.seed), count)
    batch = jax.vmap(lambda key: task.sample_test(key, task.hops))(keys)
    weights_NBHLL = observe(recipe.model, result.params, batch, "attention/weights$")["blocks/attention/weights"]
    values = jnp.arange(1, 2 * task.symbols, 2)
    seen = {"before": weights_NBHLL[:, :, :, values, values - 1].mean(axis=(1, 3))}
    asked_NBHV = weights_NBHLL[:, :, :, task.place(task.hops), : 2 * task.symbols].reshape(
        *weights_NBHLL.shape[:3], task.symbols, 2
    ).sum(axis=-1)  # fmt: skip
    pairs_BV = jnp.argsort(batch.inputs[:, : 2 * task.symbols : 2], axis=1)  # the pair that each symbol is the key of
    for hop in range(1, task.hops + 1):
        start_B = batch.inputs[:, -1] if hop == 1 else batch.targets[:, task.place(hop - 1)]
        pair_B = jnp.take_along_axis(pairs_BV, start_B[:, None], axis=1)
        there_NBH = jnp.take_along_axis(asked_NBHV, pair_B[None, :, None], axis=-1)[..., 0]
        seen[f"pair_{hop}"] = there_NBH.mean(axis=1)
    return {
        f"share/{name}/{layer}": float(share)
        for name, share_NH in seen.items()
        for layer, share in enumerate(share_NH.max(axis=1), start=1)
    }


def by_hand(task: Retrieval, count: int = 1000) -> dict[str, float]:
    """Return the errors of the weights by hand, and of doubled pointers, at every number of hops."""
    net, params = construct(task)
    keys = jax.random.split(jax.random.key(0), count)
    batch = jax.vmap(lambda key: task.sample_test(key, jnp.int32(task.hops)))(keys)
    wrong_BL = jnp.argmax(jax.jit(net.apply)(params, batch).logits, axis=-1) != batch.targets
    cycle = np.random.default_rng(0).permutation(32)
    successor = np.roll(cycle, -1)[np.argsort(cycle)]
    missed = [doubled(successor, layers)[cycle] != np.roll(cycle, -(2**layers)) for layers in range(5)]
    return {"hand_errors": float(jnp.sum(wrong_BL * batch.weights)), "doubled_errors": float(np.sum(missed))}


def train(recipe: Recipe, folder: Path) -> dict[str, float]:
    """Train an arm; return its accuracy at each hop, the curves, when each hop was learnt, and where its heads look."""
    result = fit(recipe, folder, quiet=True)
    curves = [row for row in read_rows(folder / "metrics.jsonl") if "test/exact_match" in row]
    hops = [name.removeprefix("test/") for name in curves[-1] if name.startswith("test/hop_")]
    figures = {hop: curves[-1][f"test/{hop}"] for hop in hops}
    never = 2.0 * recipe.train.steps
    learnt = [next((row["step"] for row in curves if row[f"test/{hop}"] >= LEARNT), never) for hop in hops]
    figures |= {f"learnt/{hop}": step for hop, step in zip(hops, learnt, strict=True)}
    figures |= {f"curve/{hop}/{row['step']:.0f}": row[f"test/{hop}"] for hop in hops for row in curves}
    return figures | {"in_order": float(learnt == sorted(learnt))} | shares(recipe, result)


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train every arm of a scale, and check the weights by hand."""
    base = {"cpu": retrieval_cpu, "full": retrieval_full}[scale]()
    figures = by_hand(Retrieval(symbols=base.task.symbols, hops=base.task.hops))
    for layers, ask in ARMS[scale]:
        every = base.train.steps // LOOKS
        values = {"model.depth": layers, "task.ask": ask, "train.seed": seed, "train.evaluate_every": every}
        found = train(override(base, values), workdir / f"{ask}-{layers}")
        figures |= {f"ask={ask}/layers={layers}/{name}": value for name, value in found.items()}
    return figures


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Picture]:
    """Draw the accuracy of every arm at each hop, the curves of the deepest one, and where its heads look."""
    arms: dict[tuple[str, int], dict[str, float]] = {}
    for metric, values in figures.items():
        if metric.startswith("ask="):
            ask, layers, name = metric.split("/", 2)
            arm = ask.removeprefix("ask="), int(layers.removeprefix("layers="))
            arms.setdefault(arm, {})[name] = median(values)
    deepest = max(layers for ask, layers in arms if ask == "all")
    best = arms["all", deepest]
    hops = [name for name in best if name.startswith("hop_")]
    spoken = [hop.replace("_", " ") for hop in hops]
    curves = []
    for hop, name in zip(hops, spoken, strict=True):
        points = {int(key.rpartition("/")[2]): value for key, value in best.items() if key.startswith(f"curve/{hop}/")}
        curves.append(Series(name, list(points), list(points.values())))
    looked = ["before", *(hop.replace("hop", "pair") for hop in hops)]
    layer_names = [str(layer) for layer in range(1, deepest + 1)]
    return [
        HeatMap(
            "Accuracy by layers and hops",
            [[arm.get(hop) for hop in hops] for arm in arms.values()],
            rows=[f"{layers} layers, {ask}" for ask, layers in arms],
            columns=spoken,
            row_label="layers, hops asked",
            high=1.0,
            percent=True,
            caption="Any network needs ceil(log3(2 hops)) layers: "
            + ", ".join(f"{fewest_layers(i)} for {i}" for i in range(1, len(hops) + 1)),
        ),
        Lines(f"Hops emerge in order, {deepest} layers", curves, x_label="step", y_label="accuracy", percent=True),
        HeatMap(
            "Where heads look",
            [[best[f"share/{name}/{layer}"] for name in looked] for layer in layer_names],
            rows=[f"layer {layer}" for layer in layer_names],
            columns=["value to key", *(name.replace("_", " ") for name in looked[1:])],
            high=1.0,
            percent=True,
            caption="Attention of the head that attends most: from values to the token before, and from the place "
            "that is asked for the most hops to the pair of each hop.",
        ),
    ]


def _at_three_layers(hop: int) -> Claim:
    statement = f"Three layers, asked for every number of hops up to three: accuracy at {hop} of them"
    return Claim(PAPER, statement, f"ask=all/layers=3/hop_{hop}", at_least=0.98, paper_value="solved")


RETRIEVAL = Experiment(
    name="retrieval_depth",
    paper=PAPER,
    claims=(
        *map(_at_three_layers, (1, 2, 3)),
        Claim(
            PAPER,
            "Asked for the third hop alone, three layers do not find it in as many steps: accuracy",
            "ask=last/layers=3/hop_3",
            at_most=0.6,
            paper_value="not learnt",
        ),
        Claim(PAPER, "One layer does not find one hop: accuracy", "ask=all/layers=1/hop_1", at_most=0.2),
        Claim(PAPER, "Two layers find one hop: accuracy", "ask=all/layers=2/hop_1", at_least=0.98),
        Claim(PAPER, "Two layers do not find three hops: accuracy", "ask=all/layers=2/hop_3", at_most=0.6),
        Claim(
            PAPER,
            "Hops are learnt one after the other (each at 90 %, three layers): 1 where they are",
            "ask=all/layers=3/in_order",
            at_least=1,
            rule="worst",
            paper_value="in a fixed order",
        ),
        Claim(
            PAPER,
            "One layer a hop and one more, by hand: errors over 1,000 cycles of 8 symbols",
            "hand_errors",
            at_most=0,
            exact=True,
        ),
        Claim(
            PAPER,
            "Attention without a mask doubles the hops in every layer: errors over a cycle of 32, 1 to 16 hops",
            "doubled_errors",
            at_most=0,
            exact=True,
        ),
        Claim(
            PAPER,
            "Full size: six layers, asked for every number of hops up to eight: accuracy at eight",
            "ask=all/layers=6/hop_8",
            at_least=0.98,
            scale="full",
        ),
        Claim(
            PAPER,
            "Full size: asked for the eighth hop alone, six layers do not find it: accuracy",
            "ask=last/layers=6/hop_8",
            at_most=0.6,
            scale="full",
        ),
    ),
    run=run,
    pictures=pictures,
)
