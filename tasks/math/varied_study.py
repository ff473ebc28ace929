"""What a decoder of a million parameters reaches on the full grammar, and how varied its problems are."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lm.candidates import pass_at_k
from lm.config import Recipe
from lm.strict import override
from lm.train import fit
from lm.trained import Trained
from tasks.math.data import held_out
from tasks.math.graded import Draw, Question, sample_graded
from tasks.math.grammar.generator import problem
from tasks.math.grammar.problem import Problem
from tasks.math.recipes import tinygsm_varied_cpu
from tasks.math.tinygsm import LONGEST_SOLUTION, SPLITS, metrics_of
from tasks.task import Claim, Experiment

PAPER = "TinyGSM (Liu et al. 2023)"
LOOKED_AT = 20_000  # problems whose variety is counted
EXAMINED = 100  # problems for pass@16
SAMPLES, TEMPERATURE = 16, 0.8


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train on 1-6 steps, examine all five test sets greedily and the first one with 16 samples."""
    recipe = override(tinygsm_varied_cpu(), {"train.seed": seed, "data.seed": seed})
    begun = time.perf_counter()
    result = fit(recipe, workdir / "varied", quiet=True)
    minutes = (time.perf_counter() - begun) / 60
    assert result.evaluation is not None
    figures = {name: result.evaluation.metrics[name].value for name in (metrics_of(split)[0] for split in SPLITS)}
    problems = held_out(recipe.data, recipe.task.settings, EXAMINED)["in_distribution"]
    trained = Trained(recipe, result.net, result.source, result.params, result.step)
    return {**figures, "pass_at_16": pass_at_16(trained, problems, seed), "minutes": minutes, **variety(recipe, seed)}


def pass_at_16(trained: Trained, problems: Sequence[Problem], seed: int) -> float:
    """Return the share of problems that one of 16 samples solves."""
    questions = [Question(p.question, p.answer) for p in problems]
    graded = sample_graded(
        lambda _: trained, questions, [Draw(trained.step, TEMPERATURE, SAMPLES)], LONGEST_SOLUTION, seed
    )
    right = [sum(c.right for c in row.candidates) for row in graded]
    return float(np.mean([pass_at_k(SAMPLES, correct, SAMPLES) for correct in right]))


def variety(recipe: Recipe, seed: int) -> dict[str, float]:
    """Return problems a second, and the shares of new skeletons and new 8-grams of words among so many problems."""
    begun = time.perf_counter()
    problems = [problem(seed, index, **recipe.task.settings) for index in range(LOOKED_AT)]
    seconds = time.perf_counter() - begun
    grams = [gram for p in problems for gram in _grams(p.question, 8)]
    return {
        "problems_per_second": LOOKED_AT / seconds,
        "unique_skeletons": len({p.skeleton for p in problems}) / LOOKED_AT,
        "unique_8_grams": len(set(grams)) / len(grams),
        "unique_questions": len({p.question for p in problems}) / LOOKED_AT,
    }


def _grams(text: str, n: int) -> Iterable[tuple[str, ...]]:
    words = text.split()
    return (tuple(words[i : i + n]) for i in range(len(words) - n + 1))


VARIED = Experiment(
    name="tinygsm_varied",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "A decoder of a million parameters on the full grammar, 1-6 steps: greedy execution accuracy on held-out "
            "problems",
            "execution_accuracy",
            at_least=0.60,
        ),
        Claim(PAPER, "One of 16 samples at temperature 0.8 is right", "pass_at_16", at_least=0.80),
    ),
    run=run,
)
