"""Grokking in groups that do not commute: what is learned is a sum of characters, which ones differs by seed.

Chughtai et al. 2023 (arXiv 2302.03025).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lm.config import Recipe
from lm.report.pictures import HeatMap, Lines, Picture
from lm.report.svg import Series
from lm.strict import override
from lm.train import prepare
from tasks.formal.groups.operations import all_scores
from tasks.formal.groups.representations import Anatomy, character_tensor, dissect, irreducibles
from tasks.formal.groups.tables import GroupTable, group_table_cpu, group_table_full
from tasks.task import Claim, Experiment

PAPER = "Universality in group composition (Chughtai et al. 2023)"
UNDERSTOOD = 0.99


class Study(NamedTuple):
    """A group to learn: the share of its rows to train on, the steps, and how many lie between two looks."""

    task: GroupTable
    steps: int
    every: int


STUDIES: Mapping[str, Study] = {
    "S4": Study(GroupTable(family="symmetric", order=4, train_fraction=0.7), 20_000, 500),
    "D12": Study(GroupTable(family="dihedral", order=12, train_fraction=0.7), 10_000, 500),
    "C59": Study(GroupTable(family="cyclic", order=59), 12_000, 500),
}


def recipe_of(study: Study) -> Recipe:
    """Return the small recipe on the group of a study."""
    task = study.task
    fitted = {"task": task, "model.vocabulary": task.vocabulary, "model.outputs": task.vocabulary}
    return override(group_table_cpu(), {**fitted, "train.batch_size": task.train_rows, "train.steps": study.steps})


def watch(recipe: Recipe, every: int, folder: Path) -> dict[str, float]:
    """Train and dissect every so many steps; return the curves, and the anatomy when the held-out rows were understood.

    A `test_step` beyond the last step means never; the anatomy is then that of the end.
    """
    task, run = recipe.task, prepare(recipe, folder)
    representations = irreducibles(task.group)[1:]
    tensors = [character_tensor(task.group, representation) for representation in representations]
    (a, b, result), rows = task.split()[1].T, task.table()
    state, found, anatomy = run.init(), {"test_step": float(recipe.train.steps + every)}, None
    for step in range(every, recipe.train.steps + 1, every):
        state, metrics = run.stretch(state, None, every)
        scores = all_scores(run.net, state.params, task)
        accuracy = float(np.mean(scores[a, b].argmax(axis=1) == result))
        left, right = state.params["embedding"]["table"]
        weights = [np.asarray(w, np.float64) for w in (left, right, state.params["head"]["kernel"].T)]
        now = dissect(scores, weights, rows, representations, tensors)
        found |= {
            f"train/{step}": float(metrics["accuracy"].value),
            f"test/{step}": accuracy,
            f"restricted/{step}": now.restricted_loss,
            f"excluded/{step}": now.excluded_loss,
        }
        if anatomy is None and (accuracy >= UNDERSTOOD or step == recipe.train.steps):
            anatomy = now
            found["test_step"] = step if accuracy >= UNDERSTOOD else found["test_step"]
    assert anatomy is not None
    return found | {"test_accuracy": accuracy} | figures_of(anatomy)


def figures_of(anatomy: Anatomy) -> dict[str, float]:
    """Return an anatomy as figures; `losses` is the restricted loss over the excluded one."""
    return {
        "explained": anatomy.explained,
        "losses": anatomy.restricted_loss / anatomy.excluded_loss,
        "span": anatomy.span,
        "learned": anatomy.learned,
        **{f"share/{name}": share for name, share in anatomy.shares.items()},
    }


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Learn every group of the scale; the figures of a group stand under its name."""
    if scale == "full":
        studies = {"S5": (group_table_full(), 5000)}
    else:
        studies = {name: (recipe_of(study), study.every) for name, study in STUDIES.items()}
    found: dict[str, float] = {}
    for name, (recipe, every) in studies.items():
        figures = watch(override(recipe, {"train.seed": seed}), every, workdir / name)
        found |= {f"{name}/{metric}": value for metric, value in figures.items()}
    return found


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Picture]:
    """Draw the curves of each group, its first seed, and what each representation explains by seed."""
    drawn: list[Picture] = []
    for name in dict.fromkeys(metric.split("/")[0] for metric in figures):

        def curve(kind: str, name: str = name) -> Series:
            begin = f"{name}/{kind}/"
            points = [(int(m.removeprefix(begin)), v[0]) for m, v in figures.items() if m.startswith(begin)]
            return Series(kind, *map(list, zip(*points, strict=True)))

        drawn.append(Lines(f"{name}: rows right", [curve("train"), curve("test")], "step", "accuracy", percent=True))
        losses = [curve("restricted"), curve("excluded")]
        drawn.append(
            Lines(
                f"{name}: loss with the characters alone, and without them",
                losses,
                "step",
                "loss in nats, whole table",
            )
        )
        begin = f"{name}/share/"
        shares = {m.removeprefix(begin): v for m, v in figures.items() if m.startswith(begin)}
        seeds = range(len(next(iter(shares.values()))))
        drawn.append(
            HeatMap(
                f"{name}: share of the scores along each representation",
                [[share[seed] for share in shares.values()] for seed in seeds],
                rows=[f"seed {seed}" for seed in seeds],
                columns=list(shares),
                column_label="representation, by dimension",
                percent=True,
            )
        )
    return drawn


def claims_of(name: str, rows: str, steps: int, share: float, scale: str, paper: str) -> tuple[Claim, ...]:
    """Return what is claimed of one group."""
    begin = f"{name}, {rows} of the table, weight decay 1: "
    return (
        Claim(
            PAPER,
            f"{begin}steps until 99 % of the held-out rows are right",
            f"{name}/test_step",
            at_most=steps,
            scale=scale,
        ),
        Claim(
            PAPER,
            f"{name}: share of the centred scores that its characters then explain",
            f"{name}/explained",
            at_least=share,
            paper_value=paper,
            scale=scale,
        ),
        Claim(
            PAPER,
            f"{name}: loss with the characters alone over the loss without them",
            f"{name}/losses",
            at_most=1.0,
            paper_value="near 0",
            scale=scale,
        ),
    )


GROUP_GROKKING = Experiment(
    name="group_grokking",
    paper=PAPER,
    claims=(
        *claims_of("S4", "70 %", 20_000, 0.6, "cpu", "0.5 to 0.85 for S5 and A5 at the end"),
        *claims_of("D12", "70 %", 10_000, 0.6, "cpu", ""),
        *claims_of("C59", "half", 12_000, 0.6, "cpu", "0.94 for C113 at the end"),
        *claims_of("S5", "40 %", 250_000, 0.5, "full", "0.5 to 0.85 for S5 and A5 at the end"),
    ),
    run=run,
    pictures=pictures,
)
