"""What recurrent convolutions learn by hand, by chance and by descent (Goel et al. 2022, arXiv 2209.00735)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import Recipe, RecurrentConvolutionConfig
from lm.strict import override
from lm.train import fit
from lm.types import Array
from tasks.formal.automata.simulation import automaton_parity_cpu
from tasks.formal.parity.rcnn import compile_rule, decode, memorise, predict, recall
from tasks.task import Claim, Experiment

PAPER = "Recurrent convolutional networks as learning algorithms (Goel et al. 2022)"
SIZES = (3, 5, 8, 12, 16)  # bits of the parities that the rule by hand learns
TABLES = tuple(itertools.product((0, 1), repeat=4))  # every function of two bits


def recurrent_parity_cpu() -> Recipe:
    """A convolution iterated over 32 bits learns the parity of every prefix; how far it runs on is luck.

    After Schwarzschild et al. 2021 and Bansal et al. 2022, with half as many iterations as there are bits, 64 in tests.
    With three seeds 97, 100 and 53 % of the words of 32 bits are right, 92, 100 and 13 % of 80 bits, 35, 67 and 9 % of
    128. Two minutes on a CPU core.
    python scripts/train.py recurrent_parity_cpu
    """
    parity = automaton_parity_cpu()
    return replace(
        parity,
        name="recurrent_parity_cpu",
        task=replace(parity.task, length=32, longest=128),
        model=RecurrentConvolutionConfig(vocabulary=2),
        train=replace(parity.train, steps=1000, batch_size=64),
    )


def memory_error(rng: np.random.Generator, count: int = 20, width: int = 8) -> tuple[float, float]:
    """Return how far the memory is from y (x, 1) / 3, and the largest output on the way."""
    points_MD, labels_M = rng.choice([-1.0, 1.0], (count, width)), rng.choice([-1.0, 1.0], count)
    memory_RC, outputs_R = memorise(jnp.asarray(points_MD), jnp.asarray(labels_M))
    expected_MC = np.pad(points_MD, ((0, 0), (0, 1)), constant_values=1.0) * labels_M[:, None] / 3
    return float(np.abs(memory_RC[:-1] - expected_MC).max()), float(np.abs(outputs_R).max())


def reduce(vector_D: np.ndarray, rows: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return a bit vector less the rows of an echelon form, {place of the leading 1: row}."""
    for place in sorted(rows):
        if vector_D[place]:
            vector_D = vector_D ^ rows[place]
    return vector_D


def eliminate(vectors_MC: np.ndarray, width: int) -> dict[int, np.ndarray]:
    """Return the echelon form of bit vectors, one after another, {place of the leading 1 among `width`: row}."""
    rows: dict[int, np.ndarray] = {}
    for vector in vectors_MC:
        for place in range(width):
            if vector[place] and place not in rows:
                rows[place] = vector
                break
            if vector[place]:
                vector = vector ^ rows[place]
    return rows


def parity_errors(rng: np.random.Generator, hidden_sets: int = 20, tests: int = 8) -> tuple[float, float]:
    """Return the wrong answers on test vectors in the span of the examples, and how many vectors those were.

    For each size there are `hidden_sets` parities of m = d + 10 examples, the empty and the whole one among them.
    """
    weights, wrong, asked = compile_rule(), 0, 0
    over_tests = jax.vmap(predict, (None, 0, None, None))
    run = jax.jit(jax.vmap(over_tests, (None, 0, 0, 0)))
    for width in SIZES:
        hidden_SD = rng.integers(0, 2, (hidden_sets, width))
        hidden_SD[0], hidden_SD[1] = 0, 1
        points_SMD = rng.integers(0, 2, (hidden_sets, width + 10, width))
        tests_STD = rng.integers(0, 2, (hidden_sets, tests, width))
        labels_SM = np.einsum("smd,sd->sm", points_SMD, hidden_SD) % 2
        answers_ST = run(weights, *(jnp.asarray(x, jnp.float32) for x in (tests_STD, points_SMD, labels_SM)))
        for points, test, hidden, answers in zip(points_SMD, tests_STD, hidden_SD, np.asarray(answers_ST), strict=True):
            rows = eliminate(points, width)
            spanned_T = np.array([not reduce(vector, rows).any() for vector in test])
            wrong += int(np.sum((answers != test @ hidden % 2) & spanned_T))
            asked += int(spanned_T.sum())
    return float(wrong), float(asked)


def end_to_end_errors(rng: np.random.Generator, width: int = 6, count: int = 16) -> float:
    """Return the errors on all points when the rule reads the examples from a memory that descent has filled."""
    hidden_D = rng.permutation(np.arange(width) < width // 2)
    points_MD = rng.choice([-1.0, 1.0], (count, width))
    memory_RC, _ = memorise(jnp.asarray(points_MD), jnp.asarray(points_MD[:, hidden_D].prod(axis=1)))
    tests_TD = np.array(list(itertools.product((-1.0, 1.0), repeat=width)))
    weights = compile_rule()
    answers_T = jax.jit(jax.vmap(lambda test_D: predict(weights, *decode(recall(memory_RC, test_D)))))(tests_TD)
    rows = eliminate((points_MD < 0).astype(int), width)
    spanned_T = np.array([not reduce(bits, rows).any() for bits in (tests_TD < 0).astype(int)])
    return float(np.sum((1 - 2 * np.asarray(answers_T) != tests_TD[:, hidden_D].prod(axis=1)) & spanned_T))


def search(rng: np.random.Generator, parities: int = 5, width: int = 5, extra: int = 12) -> np.ndarray:
    """Return the accuracy on every point of each rule whose two gates are any of the 16 functions, [256]."""
    hidden_SD = rng.integers(0, 2, (parities, width))
    points_SMD = rng.integers(0, 2, (parities, width + extra, width))
    labels_SM = np.einsum("smd,sd->sm", points_SMD, hidden_SD) % 2
    tests_TD = np.array(list(itertools.product((0, 1), repeat=width)))
    answers_ST = hidden_SD @ tests_TD.T % 2
    rules = [compile_rule(update, store) for update in TABLES for store in TABLES]
    data = [jnp.asarray(x, jnp.float32) for x in (points_SMD, labels_SM, answers_ST)]

    def accuracy(weights) -> Array:
        def one(points_MD: Array, labels_M: Array, answers_T: Array) -> Array:
            told_T = jax.vmap(predict, (None, 0, None, None))(weights, jnp.asarray(tests_TD), points_MD, labels_M)
            return jnp.mean(told_T == answers_T)

        return jnp.mean(jax.lax.map(lambda parts: one(*parts), tuple(data)))

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rules)
    return np.asarray(jax.jit(lambda stacked: jax.lax.map(accuracy, stacked))(stacked))


def draws(rng: np.random.Generator, accuracies: np.ndarray, searches: int = 20) -> float:
    """Return how many rules a search draws at random until one is perfect, the mean of several searches."""
    perfect = accuracies == 1
    if not perfect.any():
        return float(len(perfect) ** 2)  # no search ends

    def search() -> int:
        count = 1
        while not perfect[rng.integers(len(perfect))]:
            count += 1
        return count

    return float(np.mean([search() for _ in range(searches)]))


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Fill the memory, run the rule by hand, try every rule, and put memory and rule together."""
    rng = np.random.default_rng(seed)
    error, told = memory_error(rng)
    wrong, asked = parity_errors(rng)
    accuracies = search(rng)
    found = {
        "memory_error": error,
        "memory_output": told,
        "parity_errors": wrong,
        "parities_asked": asked,
        "end_to_end_errors": end_to_end_errors(rng),
        "perfect_rules": float(np.sum(accuracies == 1)),
        "perfect_rules_off": float(abs(np.sum(accuracies == 1) - 1)),
        "best_other_rule": float(np.max(accuracies[accuracies < 1])),
        "other_rules_99th_percentile": float(np.quantile(accuracies[accuracies < 1], 0.99)),
        "parameters": float(sum(leaf.size for leaf in jax.tree.leaves(compile_rule()))),
    }
    mean_draws = draws(rng, accuracies)
    evaluation = fit(override(recurrent_parity_cpu(), {"train.seed": seed}), workdir / "trained", quiet=True).evaluation
    assert evaluation is not None
    found |= {f"trained/{bits}": rates["exact_match"].value for bits, rates in evaluation.slices["symbols"].items()}
    return found | {"draws": mean_draws, "draws_off": abs(mean_draws - 256)}


RCNN = Experiment(
    name="rcnn",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "One pass of gradient descent stores each example as y (x, 1) / 3: largest difference, 20 of 8 bits",
            "memory_error",
            at_most=1e-6,
            paper_value="0",
            rule="worst",
        ),
        Claim(
            PAPER,
            "It answers 0 all the while: largest output",
            "memory_output",
            at_most=1e-6,
            paper_value="0",
            rule="worst",
        ),
        Claim(
            PAPER,
            "One ReLU rule of constant size learns every parity: errors on 8 vectors in the span for each of 20 hidden "
            "sets at d = 3, 5, 8, 12, 16, from d + 10 examples",
            "parity_errors",
            at_most=0,
            paper_value="0",
            rule="worst",
        ),
        Claim(
            PAPER,
            "Of 256 rules, two gates left open, one learns parities: how many more or fewer do",
            "perfect_rules_off",
            at_most=0,
            rule="worst",
        ),
        Claim(
            PAPER,
            "Drawing rules at random finds it in 256 draws: by how much the mean of 20 searches is off",
            "draws_off",
            at_most=120,
        ),
        Claim(
            PAPER,
            "The rule learns from the memory that descent has filled: errors on all points of 6 bits, 16 examples",
            "end_to_end_errors",
            at_most=0,
            rule="worst",
        ),
        *(
            Claim(
                PAPER,
                f"A convolution trained on parities of 32 bits finds those of {bits} by iterating on: words right",
                f"trained/{bits}",
                at_least=0.9,
                paper_value="(Bansal et al. 2022: runs on)",
            )
            for bits in (80, 128)
        ),
    ),
    run=run,
)
