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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from lm.config import Recipe
from lm.evaluate import rate
from lm.exits import UserError
from lm.strict import ConfigError, require_choice
from lm.types import Evaluation, Key, Net, Params, Rate, Source
from tasks.math.benchmarks import DATA_SETS, read
from tasks.math.data import HELD_OUT, MathData, build, held_out, prompt
from tasks.math.grammar.generator import STEP_WEIGHTS, problem
from tasks.math.grammar.grammars import GRAMMARS
from tasks.math.grammar.problem import Problem, figure
from tasks.math.scorers import Grade, grade, grade_text
from tasks.math.written import write
from tasks.task import Task

LONGEST_SOLUTION = 160  # tokens
SHOWN = 6  # examples kept right and wrong of each split
SPLITS = ("in_distribution", "new_skeleton", "new_theme", "deeper", "distractor")
COLUMNS = ("execution_accuracy", "lenient_accuracy", "executable")  # as programs are graded


def metrics_of(split: str) -> tuple[str, ...]:
    """Return a split's names for: the result is right, so is it or the last number written, the program runs."""
    if split == "in_distribution":
        return COLUMNS
    return tuple(f"{split}_{name}" for name in ("accuracy" if split in SPLITS else "strict", "lenient", "executable"))


class Asked(NamedTuple):
    """A test question with what decides its slices; `problem` is None for questions of published sets."""

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
    """Word problems of `min_steps` to `max_steps` steps, a share `distractor` of them with an idle remark.

    `splits` are the generated test sets, of `test_count` problems each. `tests` are published ones, as NAME=FOLDER.
    """

    name: ClassVar[str] = "tinygsm"
    size_name: ClassVar[str] = "steps"

    min_steps: int = 1
    max_steps: int = 4
    distractor: float = 0.3
    grammar: str = "small"  # small: 28 kinds of steps; full: 75, with more phrasings, names and things
    splits: tuple[str, ...] = ("in_distribution", "new_skeleton")
    test_count: int = 500  # of each split
    tests: tuple[str, ...] | None = None

    def __post_init__(self):
        most = len(STEP_WEIGHTS)
        if not 1 <= self.min_steps <= self.max_steps <= most:
            raise ConfigError(
                f"task.min_steps and task.max_steps must satisfy 1 <= min_steps <= max_steps <= {most}, "
                f"got {self.min_steps} and {self.max_steps}"
            )
        if not 0 <= self.distractor <= 1:
            raise ConfigError(f"task.distractor must lie in 0..1, got {self.distractor}")
        require_choice("task.grammar", self.grammar, GRAMMARS)
        for split in self.splits:
            require_choice("task.splits", split, SPLITS)
        if "new_theme" in self.splits and self.grammar == "small":
            raise ConfigError("task.splits: new_theme needs task.grammar full, the small one has a single theme")
        if "deeper" in self.splits and self.max_steps == most:
            raise ConfigError(f"task.splits: nothing is deeper than task.max_steps {most}")
        for test in self.tests or ():
            require_choice("task.tests (as NAME=FOLDER)", test.partition("=")[0], tuple(DATA_SETS))

    @property
    def settings(self) -> dict[str, Any]:
        """The generator's keyword arguments."""
        return {
            "steps": (self.min_steps, self.max_steps), "distractor": self.distractor, "grammar": self.grammar,
        }  # fmt: skip

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
        if data.tokenizer is None:
            _check_vocabulary(recipe, data.vocabulary, f"data.vocabulary {data.vocabulary}")
        asked = self._questions(data)
        published = [a.question for a in asked if a.problem is None]
        built = build(data, self.settings, {a.question for a in asked}, folder, published)
        _check_vocabulary(recipe, built.codec.vocabulary, f"the {built.codec.vocabulary} tokens of data.tokenizer")
        programs = data.solutions[0] == "program"
        corpus = Corpus(built.folder, "train", recipe.train.batch_size, recipe.train.seed)

        def evaluate(net: Net, params: Params, key: Key) -> Evaluation:
            return examine(net, params, built.codec, asked, programs, key)

        facts = {"corpus": corpus.facts, "mixture": built.facts, "windows": corpus.size}
        ask = partial(prompt, built.codec, is_program=programs)
        return Source(None, corpus.at, evaluate, facts, built.codec, prompt=ask, ids=corpus.ids)

    def _questions(self, data: MathData) -> list[Asked]:
        splits = held_out(data, self.settings, self.test_count, self.splits)
        asked = [Asked(p.question, p.answer, split, p) for split, problems in splits.items() for p in problems]
        tests = [] if data.gsm8k is None else [("gsm8k", "gsm8k_test", data.gsm8k)]
        tests += [(name, name, folder) for name, _, folder in (test.partition("=") for test in self.tests or ())]
        return asked + [a for split, name, folder in tests for a in _published(split, name, folder)]


def _check_vocabulary(recipe: Recipe, needed: int, what: str) -> None:
    if recipe.model.vocabulary < needed:
        raise ConfigError(f"model.vocabulary {recipe.model.vocabulary} is smaller than {what}")


def _published(split: str, name: str, folder: str) -> Iterator[Asked]:
    for item in read(name, folder):
        if not isinstance(item.answer, Fraction):
            raise UserError(f"task.tests: the answers of {name} are no numbers, which programs are examined by")
        yield Asked(item.question, item.answer, split)


def examine(net: Net, params: Params, codec: Any, asked: Sequence[Asked], programs: bool, key: Key) -> Evaluation:
    """Continue every question greedily and grade what comes out; without `programs` by the last number written."""
    prompts = [prompt(codec, a.question, programs) for a in asked]
    grading = grade if programs else grade_text
    found: dict[int, tuple[str, Grade]] = {}
    for place, (written,) in write(net, params, codec, prompts, max_new=LONGEST_SOLUTION, key=key):
        found[place] = written.text, grading(written.text, asked[place].answer)
    return tally(asked, [found[place] for place in range(len(asked))])


def tally(asked: Sequence[Asked], found: Sequence[tuple[str, Grade]]) -> Evaluation:
    """Sum up a completion with its grade a question: metrics by split, slices of the generated problems, examples."""
    counts: dict[tuple[str, str], list[tuple[bool, ...]]] = defaultdict(list)
    shown: dict[tuple[str, bool], list[dict[str, Any]]] = defaultdict(list)
    for a, (completion, graded) in zip(asked, found, strict=True):
        for slicing, name in a.slices():
            counts[slicing, name].append((graded.strict, graded.lenient, graded.outcome.status == "ok"))
        if len(shown[a.split, graded.strict]) < SHOWN:
            shown[a.split, graded.strict].append(_example(a, completion, graded))
    rates = {key: [rate(sum(column), len(rows)) for column in zip(*rows, strict=True)] for key, rows in counts.items()}
    metrics: dict[str, Rate] = {}  # in the order of the questions, the main ones first
    for (slicing, name), each in rates.items():
        if slicing == "split":
            metrics |= zip(metrics_of(name), each, strict=True)
    slices: dict[str, dict[str, dict[str, Rate]]] = defaultdict(dict)
    for slicing, name in sorted(rates):
        slices[slicing][name] = dict(zip(COLUMNS, rates[slicing, name], strict=True))
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
