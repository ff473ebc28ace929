"""Wide perceptrons with a sparse start against trees on small tables (Edelman et al. 2023, section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from lm.exits import UserError
from lm.report.pictures import HeatMap, Picture
from tasks.formal.parity.study import PAPER, STARTS
from tasks.formal.parity.tabular import LOADERS, Split, learner, perceptron, split_table
from tasks.task import Claim, Experiment

SHARES = (1.0, 0.1)  # of the rows to learn from
TREES = 250


def trees(split: Split, seed: int) -> dict[str, np.ndarray]:
    """Return the predictions [T] of a random forest and of boosted trees."""
    try:
        from sklearn.ensemble import RandomForestClassifier
        from xgboost import XGBClassifier
    except ImportError:
        raise UserError("the comparison with trees needs the extra `tabular`") from None
    rivals = {
        "forest": RandomForestClassifier(TREES, random_state=seed, n_jobs=1),
        "xgboost": XGBClassifier(n_estimators=TREES, random_state=seed, n_jobs=1),
    }
    seen = slice(split.kept)
    return {
        name: each.fit(split.rows_NA[seen], split.labels_N[seen]).predict(split.tests_TA)
        for name, each in rivals.items()
    }


def accuracies(seed: int, names: Sequence[str] = tuple(LOADERS), shares: Sequence[float] = SHARES) -> dict[str, float]:
    """Return the share of held-out rows that each learner gets right, by table and share of the rows."""
    found = {}
    for name in names:
        splits = {share: split_table(name, share, seed) for share in shares}
        like = splits[shares[0]]
        learners = {start: learner(perceptron(like, sparse), like) for start, sparse in STARTS.items()}
        for share, split in splits.items():
            told = {start: learn(split, jax.random.key(seed)) for start, learn in learners.items()} | trees(split, seed)
            for learner_name, predictions_T in told.items():
                right = float(np.mean(predictions_T == split.answers_T))
                found[f"accuracy/{learner_name}/{name}/{share:g}"] = right
    return found


def wins(found: Mapping[str, float], share: float) -> float:
    """Return the share of tables on which the sparse perceptron beats the forest; a tie counts half."""
    pairs = [[found[f"accuracy/{who}/{name}/{share:g}"] for who in ("sparse", "forest")] for name in LOADERS]
    return float(np.mean([(np.sign(mine - theirs) + 1) / 2 for mine, theirs in pairs]))


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Examine all learners on all tables, split by `seed`."""
    found = accuracies(seed)
    gains = [found[f"accuracy/sparse/{name}/1"] - found[f"accuracy/dense/{name}/1"] for name in LOADERS]
    return found | {
        "sparse_minus_dense": float(np.mean(gains)),
        **{f"wins/{share:g}": wins(found, share) for share in SHARES},
    }


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Picture]:
    """Draw the mean accuracy of every learner on every table, a map for each share of the rows."""
    names = [figure.split("/")[1:] for figure in figures if figure.startswith("accuracy/")]
    learners, tables, shares = (list(dict.fromkeys(column)) for column in zip(*names, strict=True))
    return [
        HeatMap(
            f"Accuracy from {float(share):.0%} of the rows",
            [[float(np.mean(figures[f"accuracy/{who}/{table}/{share}"])) for who in learners] for table in tables],
            rows=tables,
            columns=learners,
            low=0.5,
            high=1.0,
            percent=True,
        )
        for share in shares
    ]


TABULAR = Experiment(
    name="tabular",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "On tables a start that reads two columns a neuron is not worse than a dense one: mean accuracy beyond it",
            "sparse_minus_dense",
            at_least=0.0,
            paper_value="(two columns are best)",
        ),
        Claim(
            PAPER,
            "From all rows perceptrons beat the forest on about half of the tables: share of five, ties half",
            "wins/1",
            at_least=0.4,
            paper_value="about half of 16",
        ),
    ),
    run=run,
    pictures=pictures,
)
