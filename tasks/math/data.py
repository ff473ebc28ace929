"""From problems to a packed corpus: <bos> question <code> program <eos>, or <text> with a solution in words.

What the corpus is made of decides its facts; a folder that holds a corpus with the same facts is used as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from lm.data import Codec, Document, build_corpus, remove_contaminated
from lm.strict import ConfigError, require_choice, require_positive
from tasks.math import gsm8k
from tasks.math.generator import problem
from tasks.math.problem import Problem, figure

HELD_OUT = 1 << 40  # test problems have indices from here on
SOLUTIONS = ("program", "text", "number")
CODEC_PROBLEMS = 3000  # that the codec learns from


@dataclass(frozen=True)
class MathData:
    """The training corpus: so many generated problems, and the questions of GSM8K where a folder is given.

    The generated problems take turns through `solutions`: program, text (worked in words), number (the answer
    alone). Loss weights are 1 on the solution and `question_weight` on the question.
    """

    problems: int = 48_000
    gsm8k: str | None = None  # folder with train.jsonl and test.jsonl
    gsm8k_repeats: int = 2
    solutions: tuple[str, ...] = ("program",)
    vocabulary: int = 1024
    length: int = 256
    question_weight: float = 0.5
    seed: int = 0

    def __post_init__(self):
        for name in ("problems", "gsm8k_repeats", "vocabulary", "length"):
            require_positive(f"data.{name}", getattr(self, name))
        for solution in self.solutions:
            require_choice("data.solutions", solution, SOLUTIONS)
        if not self.solutions:
            raise ConfigError("data.solutions must name at least one of " + ", ".join(SOLUTIONS))


class Row(NamedTuple):
    """A question with its solution, which stands after <code> (a program) or <text>."""

    question: str
    solution: str
    is_program: bool


class Built(NamedTuple):
    """A corpus on disk, the codec it was written with, and what is to be said about both."""

    folder: Path
    codec: Codec
    facts: dict[str, Any]


def prompt(codec: Codec, question: str, is_program: bool) -> list[int]:
    """Return the tokens that a model continues with a solution."""
    return [codec.bos, *codec.encode(question), codec.code if is_program else codec.text]


def document(codec: Codec, row: Row, question_weight: float) -> Document:
    """Return a row as tokens and loss weights; the mark between question and solution is given, not asked."""
    asked = prompt(codec, row.question, row.is_program)
    solution = [*codec.encode(row.solution), codec.eos]
    weights = [question_weight] * (len(asked) - 1) + [0.0] + [1.0] * len(solution)
    return Document(asked + solution, weights)


def solution_of(p: Problem, form: str) -> Row:
    """Return a problem with its solution in one of SOLUTIONS."""
    texts = {"program": p.code, "text": p.text, "number": figure(p.answer)}
    return Row(p.question, texts[form], form == "program")


def held_out(data: MathData, settings: dict[str, Any], count: int) -> dict[str, list[Problem]]:
    """Return `count` test problems with skeletons that training knows and `count` with new ones."""
    splits: dict[str, list[Problem]] = {"in_distribution": [], "new_skeleton": []}
    index = HELD_OUT
    while min(map(len, splits.values())) < count:
        p = problem(data.seed, index, **settings)
        splits["new_skeleton" if p.new_skeleton else "in_distribution"].append(p)
        index += 1
    return {name: problems[:count] for name, problems in splits.items()}


def training_problems(data: MathData, settings: dict[str, Any], test: set[str]) -> Iterator[Problem]:
    """Yield problems without end, none of a held-out skeleton and none with a question of the test."""
    index = 0
    while True:
        p = problem(data.seed, index, **settings)
        if not p.new_skeleton and p.question not in test:
            yield p
        index += 1


def build(data: MathData, settings: dict[str, Any], test: set[str], folder: Path) -> Built:
    """Build codec and corpus in a folder, or use those that it holds already.

    `settings` are the generator's; no training question is one of `test`.
    """
    path, mixture = folder / "codec.json", folder / "mixture.json"
    if not path.exists():
        _learn_codec(data, settings, test).save(path)
    codec = Codec.load(path)
    first = [problem(data.seed, index, **settings) for index in range(100)]
    origin = {
        "generator": settings,
        "first_problems": hashlib.sha256(repr(first).encode()).hexdigest(),
        "data": asdict(data) | {"gsm8k": data.gsm8k and gsm8k.digests(data.gsm8k)},
        "codec": codec.digest,
    }

    def documents() -> Iterator[Document]:
        rows, facts = mix(data, settings, test)
        made = (document(codec, row, data.question_weight) for row in rows)
        fitting = [d for d in made if len(d.tokens) <= data.length + 1]
        mixture.write_text(json.dumps(facts | {"documents": len(fitting), "too_long": len(rows) - len(fitting)}))
        yield from fitting

    build_corpus(folder / "corpus", "tinygsm", {"train": documents}, data.length, origin)
    return Built(folder / "corpus", codec, json.loads(mixture.read_text()) | {"codec_sha256": codec.digest})


def _learn_codec(data: MathData, settings: dict[str, Any], test: set[str]) -> Codec:
    forms = cycle(data.solutions)
    rows = [solution_of(p, next(forms)) for p in islice(training_problems(data, settings, test), CODEC_PROBLEMS)]
    texts = [text for row in rows for text in (row.question, row.solution)]
    if data.gsm8k is not None:
        train, _ = gsm8k.load(data.gsm8k)
        texts += [q.question for q in train[:CODEC_PROBLEMS]]
    return Codec.train(texts, data.vocabulary)


def mix(data: MathData, settings: dict[str, Any], test: set[str]) -> tuple[list[Row], dict[str, Any]]:
    """Return all training rows and their counts: generated problems, and GSM8K's training questions as programs."""
    forms = cycle(data.solutions)
    problems = islice(training_problems(data, settings, test), data.problems)
    rows = [solution_of(p, next(forms)) for p in problems]
    facts: dict[str, Any] = {"generated": len(rows)}
    if data.gsm8k is None:
        return rows, facts
    train, test_questions = gsm8k.load(data.gsm8k)
    programs = [(q.question, gsm8k.translate(q.solution)) for q in train]
    translated = [Row(question, program, True) for question, program in programs if program is not None]
    kept, collisions = remove_contaminated(
        rows + translated, [q.question for q in test_questions], text=lambda row: row.question
    )
    own = sum(c.item >= len(rows) for c in collisions)
    real = kept[len(rows) - (len(collisions) - own) :]
    facts |= {
        "gsm8k_train": len(train),
        "gsm8k_translated": len(translated),
        "gsm8k_translated_share": len(translated) / len(train),
        "contaminated_gsm8k_removed": own,
        "contaminated_generated_removed": len(collisions) - own,
    }
    return kept + real * (data.gsm8k_repeats - 1), facts
