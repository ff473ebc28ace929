"""TinyGSM in small: answer word problems with Python programs and be graded by running them.

Liu et al. 2023, arXiv 2312.09241. A generator with a grammar of word problems takes the place of the paper's
teacher model, an interpreter over the syntax tree that of its executor:

    >>> print(TinyGSM(distractor=1.0).show(seed=0, index=59, size=1))
    There are 65 cards in the box of Sam. Each card costs $6. Sam also has 27 pears. How many dollars does Sam pay?
    def solve():
        sam = 65
        result = sam * 6
        return result
    -> 390
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from lm.config import Growth, MajorityKernels, OptimizerConfig, Recipe, TrainConfig, TransformerConfig
from lm.evaluate import rate
from lm.strict import ConfigError
from lm.types import Evaluation, Key, Net, Params, Rate, Source
from tasks.math import gsm8k
from tasks.math.data import HELD_OUT, MathData, build, held_out, prompt
from tasks.math.generator import STEP_WEIGHTS, problem
from tasks.math.problem import Problem, figure
from tasks.math.scorers import Grade, grade, grade_text
from tasks.task import Task

LONGEST_SOLUTION = 160  # tokens
SHOWN = 6  # examples kept right and wrong of each split
# Each split's names for: the executed result is right, so is it or the last number written, the program runs.
METRICS = {
    "in_distribution": ("execution_accuracy", "lenient_accuracy", "executable"),
    "new_skeleton": ("new_skeleton_accuracy", "new_skeleton_lenient", "new_skeleton_executable"),
    "gsm8k": ("gsm8k_strict", "gsm8k_lenient", "gsm8k_executable"),
}


class Asked(NamedTuple):
    """A test question with what decides its slices; `problem` is None for questions of GSM8K."""

    question: str
    answer: Fraction
    split: str
    problem: Problem | None = None

    def slices(self) -> list[tuple[str, str]]:
        """Return (slicing, slice) for every count that the question goes into."""
        found = [("split", self.split)]
        if self.problem is not None and self.split == "in_distribution":
            found.append(("steps", str(self.problem.steps)))
            found.append(("distractor", "with" if self.problem.distractor else "without"))
            found += [("kind", kind) for kind in sorted(set(self.problem.kinds))]
        return found


@dataclass(frozen=True)
class TinyGSM(Task):
    """Word problems of `min_steps` to `max_steps` steps, a share `distractor` of them with an idle remark."""

    name: ClassVar[str] = "tinygsm"
    size_name: ClassVar[str] = "steps"

    min_steps: int = 1
    max_steps: int = 4
    distractor: float = 0.3
    test_count: int = 500  # of each split

    def __post_init__(self):
        most = len(STEP_WEIGHTS)
        if not 1 <= self.min_steps <= self.max_steps <= most:
            raise ConfigError(
                f"task.min_steps and task.max_steps must satisfy 1 <= min_steps <= max_steps <= {most}, "
                f"got {self.min_steps} and {self.max_steps}"
            )
        if not 0 <= self.distractor <= 1:
            raise ConfigError(f"task.distractor must lie in 0..1, got {self.distractor}")

    @property
    def settings(self) -> dict[str, Any]:
        """The generator's keyword arguments."""
        return {"steps": (self.min_steps, self.max_steps), "distractor": self.distractor}

    @property
    def train_sizes(self) -> tuple[int, int]:
        return self.min_steps, self.max_steps

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return tuple(range(self.min_steps, self.max_steps + 1))

    def show(self, seed: int, index: int, size: int) -> str:
        p = problem(seed, HELD_OUT + index, **replace(self, min_steps=size, max_steps=size).settings)
        return f"{p.question}\n{p.code}\n-> {figure(p.answer)}"

    def source(self, recipe: Recipe, folder: Path) -> Source:
        """Build or find the corpus in the run folder; examine by sampling programs and running them."""
        from lm.data import Corpus

        data = recipe.data
        if not isinstance(data, MathData):
            raise ConfigError(f"data must be MathData for tinygsm, got {data!r}")
        if recipe.model.vocabulary < data.vocabulary:
            raise ConfigError(
                f"model.vocabulary {recipe.model.vocabulary} is smaller than data.vocabulary {data.vocabulary}"
            )
        asked = self._questions(data)
        built = build(data, self.settings, {a.question for a in asked}, folder)
        programs = data.solutions[0] == "program"
        corpus = Corpus(built.folder, "train", recipe.train.batch_size, recipe.train.seed)

        def evaluate(net: Net, params: Params, key: Key) -> Evaluation:
            return examine(net, params, built.codec, asked, programs, key)

        facts = {"corpus": corpus.facts, "mixture": built.facts, "windows": corpus.size}
        ask = partial(prompt, built.codec, is_program=programs)
        return Source(draw=None, at=corpus.at, evaluate=evaluate, facts=facts, codec=built.codec, prompt=ask)

    def _questions(self, data: MathData) -> list[Asked]:
        splits = held_out(data, self.settings, self.test_count)
        asked = [Asked(p.question, p.answer, split, p) for split, problems in splits.items() for p in problems]
        if data.gsm8k is not None:
            asked += [Asked(q.question, q.answer, "gsm8k") for q in gsm8k.load(data.gsm8k)[1]]
        return asked


def examine(net: Net, params: Params, codec: Any, asked: Sequence[Asked], programs: bool, key: Key) -> Evaluation:
    """Continue every question greedily and grade what comes out; without `programs` by the last number written."""
    from lm.decode import sample

    prompts = [prompt(codec, a.question, programs) for a in asked]
    found = sample(net, params, prompts, max_new=LONGEST_SOLUTION, stop=codec.eos, key=key, pad=codec.pad)
    completions = []
    for tokens_CL, lengths_C in zip(found.tokens, found.lengths, strict=True):
        tokens_L = tokens_CL[0, : lengths_C[0]]
        completions.append(codec.decode(tokens_L[tokens_L < codec.vocabulary]))  # the head may have more rows
    return tally(asked, completions, programs)


def tally(asked: Sequence[Asked], completions: Sequence[str], programs: bool = True) -> Evaluation:
    """Grade one completion a question: metrics by split, slices of the generated problems, examples of all."""
    counts: dict[tuple[str, str], list[tuple[bool, ...]]] = defaultdict(list)
    shown: dict[tuple[str, bool], list[dict[str, Any]]] = defaultdict(list)
    for a, completion in zip(asked, completions, strict=True):
        graded = grade(completion, a.answer) if programs else grade_text(completion, a.answer)
        for slicing, name in a.slices():
            counts[slicing, name].append((graded.strict, graded.lenient, graded.outcome.status == "ok"))
        if len(shown[a.split, graded.strict]) < SHOWN:
            shown[a.split, graded.strict].append(_example(a, completion, graded))
    metrics: dict[str, Rate] = {}
    slices: dict[str, dict[str, dict[str, Rate]]] = defaultdict(dict)
    for (slicing, name), rows in sorted(counts.items()):
        rates = [rate(sum(column), len(rows)) for column in zip(*rows, strict=True)]
        if slicing == "split":
            metrics |= zip(METRICS[name], rates, strict=True)
        slices[slicing][name] = dict(zip(METRICS["in_distribution"], rates, strict=True))
    return Evaluation(metrics, dict(slices), list(chain.from_iterable(shown.values())))


def _example(a: Asked, completion: str, graded: Grade) -> dict[str, Any]:
    status, value = graded.outcome
    return {
        "question": a.question,
        "target": figure(a.answer),
        "prediction": status if value is None else f"{value:g}",
        "right": graded.strict,
        "program": completion,
        "steps": a.problem.steps if a.problem else None,
        "split": a.split,
    }


def tinygsm_cpu() -> Recipe:
    """A decoder of 3 layers, 724,864 parameters, writes programs for problems of 1-4 steps.

    Liu et al. 2023. 1,000 steps of 16 windows, median of three seeds: greedy execution accuracy 95.0 % (92.2 to
    95.4) on 500 held-out problems and 91.4 % (90.6 to 94.0) on 500 with new skeletons. A run takes 3 min 38 s
    on 2 CPU cores. The step kinds differ: with seed 0, 68 % of the problems with a "fraction" step are right,
    and all of those with "saving".
    python scripts/train.py tinygsm_cpu
    """
    return Recipe(
        name="tinygsm_cpu",
        task=TinyGSM(),
        data=MathData(),
        model=TransformerConfig(vocabulary=1024, depth=3, width=128, heads=4, activation="swiglu"),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=100, beta2=0.98, final_fraction=0.01),
        train=TrainConfig(steps=1000, batch_size=16),
    )


def tinygsm_grown_cpu() -> Recipe:
    """The same decoder grown from 1 to 3 layers by stacking, with majority kernels of 3 copies on the way.

    Agarwal et al. 2024 and Mazzawi et al. 2024 on the task of Liu et al. 2023. The rate stays at its peak until
    the last stage, which is half of the steps. Twice the steps of tinygsm_cpu: after as many (seed 0) growth alone
    solves 80.0 % of the held-out problems, with copies begun as one draw 67.6 %, with independent ones 20.0 %.
    python scripts/train.py tinygsm_grown_cpu
    """
    plain = tinygsm_cpu()
    return replace(
        plain,
        name="tinygsm_grown_cpu",
        optimizer=replace(plain.optimizer, schedule="wsd", decay_fraction=0.5),
        train=replace(plain.train, steps=2000),
        growth=Growth(depths=(1, 2, 3)),
        transforms=(MajorityKernels(factor=3, initialisation="shared"),),
    )
