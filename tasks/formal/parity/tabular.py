"""Tables that come with scikit-learn, and wide perceptrons that read two columns a neuron (Edelman et al. 2023).

split = split_table("wine", share=0.1, seed=0)
predictions = learner(perceptron(split, sparse=2), split)(split, jax.random.key(0))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import NormalDist
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import MLPConfig, OptimizerConfig
from lm.exits import UserError
from lm.losses import next_token
from lm.models import build
from lm.optim import make_optimizer, make_schedule
from lm.step import init_state, make_step, repeat
from lm.types import Array, Batch, Key

EPOCHS, BATCH = 100, 128
HELD_OUT = 0.3  # of all rows

# The paper's kind of optimizer for tables: momentum 0.9, cosine to zero, a little decay.
OPTIMIZER = OptimizerConfig(
    name="sgd", learning_rate=0.1, schedule="cosine", final_fraction=0.0, beta1=0.9, weight_decay=1e-4, clip=None
)


def _diabetes(datasets: Any) -> tuple[np.ndarray, np.ndarray]:
    rows, progression = datasets.load_diabetes(return_X_y=True)
    return rows, progression > np.median(progression)


LOADERS: Mapping[str, Callable[[Any], tuple[np.ndarray, np.ndarray]]] = MappingProxyType(
    {
        "breast_cancer": lambda datasets: datasets.load_breast_cancer(return_X_y=True),
        "diabetes": _diabetes,  # more or less progress than the median patient's
        "digits": lambda datasets: datasets.load_digits(return_X_y=True),
        "iris": lambda datasets: datasets.load_iris(return_X_y=True),
        "wine": lambda datasets: datasets.load_wine(return_X_y=True),
    }
)


class Split(NamedTuple):
    """A table of A columns: rows to learn from, of which the first `kept` are there, and T held-out ones.

    `rows` and `tests` are as they were read; the normal ones have each column turned into a normal distribution by
    the quantiles of the kept rows.
    """

    rows_NA: np.ndarray
    labels_N: np.ndarray
    tests_TA: np.ndarray
    answers_T: np.ndarray
    normal_rows_NA: np.ndarray
    normal_tests_TA: np.ndarray
    kept: int


def split_table(name: str, share: float, seed: int) -> Split:
    """Return a table split at random by `seed`, with a share of the rows to learn from."""
    try:
        from sklearn import datasets
        from sklearn.model_selection import train_test_split
        from sklearn.preprocessing import QuantileTransformer
    except ImportError:
        raise UserError("tables need scikit-learn, which the extra `tabular` brings") from None
    rows, labels = LOADERS[name](datasets)
    labels = labels.astype(np.int32)
    rows_NA, tests_TA, labels_N, answers_T = train_test_split(
        rows, labels, test_size=HELD_OUT, random_state=seed, stratify=labels
    )
    kept = round(share * len(rows_NA))
    scaler = QuantileTransformer(n_quantiles=kept, output_distribution="normal").fit(rows_NA[:kept])
    reach = -NormalDist().inv_cdf(0.5 / kept)  # of few rows the lowest is no sign of five standard deviations
    normal = [np.clip(scaler.transform(part), -reach, reach).astype(np.float32) for part in (rows_NA, tests_TA)]
    return Split(rows_NA, labels_N, tests_TA, answers_T, *normal, kept)


def perceptron(split: Split, sparse: int | None) -> MLPConfig:
    """Return the default for tables: hidden layers of 2,048 and 256, the first reading `sparse` columns a neuron."""
    return MLPConfig(
        inputs=split.rows_NA.shape[1],
        outputs=int(split.labels_N.max()) + 1,
        vocabulary=None,
        first=2048,
        sparse=sparse,
        initialisation="uniform",
        width=256,
        depth=0,
        dtype="float32",
    )


def ask(rows_BA: Array, labels_B: Array) -> Batch:
    """Return rows and their labels as a batch."""
    ones_B1 = jnp.ones((len(labels_B), 1))
    return Batch(rows_BA, labels_B[:, None], ones_B1, jnp.zeros((len(labels_B), 1), jnp.int32), {})


def learner(config: MLPConfig, like: Split) -> Callable[[Split, Key], np.ndarray]:
    """Return (split, key) -> predictions [T] of a perceptron, one program for all splits of the shape of `like`.

    It takes as many steps whatever share of the rows is kept. No row is held back to say when to stop: of few rows
    there would be one or two, and the rate falls to zero in any case.
    """
    steps = EPOCHS * -(-len(like.rows_NA) // BATCH)
    net = build(config)
    optimizer = make_optimizer(OPTIMIZER, make_schedule(OPTIMIZER, steps))

    @jax.jit
    def learn(rows_NA: Array, labels_N: Array, tests_TA: Array, kept: Array, key: Key) -> Array:
        def draw(key: Key, step: Array) -> Batch:
            picked_B = jax.random.randint(jax.random.fold_in(key, step), (BATCH,), 0, kept)
            return ask(rows_NA[picked_B], labels_N[picked_B])

        state = init_state(net, optimizer, key)
        state, _ = repeat(make_step(net, next_token, optimizer, draw))(state, None, jnp.int32(steps))
        return jnp.argmax(net.apply(state.params, ask(tests_TA, jnp.zeros(len(tests_TA), int))).logits[:, 0], axis=-1)

    def predict(split: Split, key: Key) -> np.ndarray:
        rows = split.normal_rows_NA, split.labels_N, split.normal_tests_TA
        return np.asarray(learn(*map(jnp.asarray, rows), split.kept, key))

    return predict
