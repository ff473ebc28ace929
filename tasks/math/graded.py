"""Programs that a generator samples for questions, run and graded: a file with a line a question.

    draws = shares(steps=(300, 400), temperatures=(0.5, 0.8), samples=16)
    rows = sample_graded(lambda step: load(recipe, folder, step), questions, draws, longest=160, seed=0)

{"question", "answer", "prompt": tokens, "candidates": [{"tokens", "program", "status", "value", "right", ...}]}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

from lm.data import read_jsonl
from lm.exits import UserError
from lm.files import write_rows
from lm.trained import Trained
from tasks.math.scorers import grade
from tasks.math.written import Written, write

LARGEST_VALUE = 2**63  # integers beyond it are no answers, and JSON readers refuse them


class Question(NamedTuple):
    """A question with its answer."""

    text: str
    answer: Fraction


class Candidate(NamedTuple):
    """A sampled program, its tokens with the end where it came to one, how it ran, and where it was sampled."""

    tokens: list[int]
    program: str
    status: str
    value: int | float | None
    right: bool
    step: int
    temperature: float


class Graded(NamedTuple):
    """A question as the generator reads it, and its candidates."""

    question: str
    answer: Fraction
    prompt: list[int]
    candidates: list[Candidate]

    def record(self) -> dict[str, Any]:
        """Return the line of a file."""
        candidates = [candidate._asdict() for candidate in self.candidates]
        return {**self._asdict(), "answer": str(self.answer), "candidates": candidates}


class Draw(NamedTuple):
    """So many samples a question from one checkpoint at one temperature, where 0 is greedy."""

    step: int
    temperature: float
    count: int


def shares(steps: Sequence[int], temperatures: Sequence[float], samples: int) -> list[Draw]:
    """Return equal shares of the samples for all pairs of checkpoint and temperature, the first ones rounded up."""
    pairs = [(step, temperature) for step in steps for temperature in temperatures]
    counts = [samples // len(pairs) + (i < samples % len(pairs)) for i in range(len(pairs))]
    return [Draw(*pair, count) for pair, count in zip(pairs, counts, strict=True) if count]


def sample_graded(
    load: Callable[[int], Trained], questions: Sequence[Question], draws: Sequence[Draw], longest: int, seed: int
) -> list[Graded]:
    """Sample every draw for every question, at most `longest` tokens each, and grade all by the interpreter."""
    import jax

    prompts: list[list[int]] = []
    candidates: list[list[Candidate]] = [[] for _ in questions]
    for step, group in groupby(enumerate(draws), key=lambda numbered: numbered[1].step):
        _, net, source, params, _ = load(step)
        prompts = [source.prompt(question.text) for question in questions]
        for number, draw in group:
            settings = {"max_new": longest, "temperature": draw.temperature, "candidates": draw.count}
            key = jax.random.fold_in(jax.random.key(seed), number)
            for place, found in write(net, params, source.codec, prompts, key=key, **settings):
                candidates[place] += [_graded(written, questions[place], draw) for written in found]
    return [Graded(*parts) for parts in zip(*zip(*questions, strict=True), prompts, candidates, strict=True)]


def _graded(written: Written, question: Question, draw: Draw) -> Candidate:
    right, _, (status, value) = grade(written.text, question.answer)
    if value is not None and abs(value) >= LARGEST_VALUE:
        value = None
    return Candidate(*written, status, value, right, draw.step, draw.temperature)


def distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the first candidate of every program."""
    first: dict[str, Candidate] = {}
    for candidate in candidates:
        first.setdefault(candidate.program, candidate)
    return list(first.values())


def keep(path: Path, inputs: dict[str, Any], make: Callable[[], Iterable[dict[str, Any]]]) -> None:
    """Write the records that `make` returns, behind a line that says what they were made from, unless they are there.

    The file is complete or absent. Raises UserError where it was made from other inputs.
    """
    head = json.loads(json.dumps({"inputs": inputs}))
    if not path.exists():
        write_rows(path, chain([head], make()))
        return
    found = next(read_jsonl(path), {})
    if found != head:
        old = found.get("inputs", {})
        shown = "; ".join(f"{n} was {old.get(n)}, now {v}" for n, v in head["inputs"].items() if old.get(n) != v)
        raise UserError(f"{path} was made from other inputs ({shown}); take another folder")


def kept(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file that `keep` wrote."""
    return list(read_jsonl(path))[1:]


def read_graded(path: Path) -> list[Graded]:
    """Return the graded questions of a file."""
    return [
        Graded(r["question"], Fraction(r["answer"]), r["prompt"], [Candidate(**c) for c in r["candidates"]])
        for r in kept(path)
    ]
