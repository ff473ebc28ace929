"""From problems to a packed corpus: <bos> question <code> program <eos>, or <text> with a solution in words.

What the corpus is made of decides its facts; a folder that holds a corpus with the same facts is used as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from lm.data import Codec, Contamination, Document, build_corpus
from lm.files import write_whole
from lm.strict import ConfigError, require_choice, require_positive
from tasks.math import gsm8k
from tasks.math.benchmarks import read, split_program
from tasks.math.grammar.generator import STEP_WEIGHTS, problem
from tasks.math.grammar.problem import Problem, figure

HELD_OUT = 1 << 40  # test problems have indices from here on
SOLUTIONS = ("program", "text", "number")
CODEC_PROBLEMS = 3000  # that the codec learns from
CHUNK = 1000  # problems that a worker process makes at a time
MANY = 20_000  # problems from which on starting worker processes pays
MOST_WORKERS = 16  # one process packs what they make, and keeps up with so many


@dataclass(frozen=True)
class MathData:
    """The training corpus: generated problems, and what is given of GSM8K's questions and sets like TinyGSM.

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
    programs: tuple[str, ...] | None = None  # folders in the form of TinyGSM, rows {question, code}
    tokenizer: str | None = None  # folder or .gguf file whose tokenizer is used; None learns a codec

    def __post_init__(self):
        for name in ("gsm8k_repeats", "vocabulary", "length"):
            require_positive(f"data.{name}", getattr(self, name))
        for solution in self.solutions:
            require_choice("data.solutions", solution, SOLUTIONS)
        if not self.solutions:
            raise ConfigError("data.solutions must name at least one of " + ", ".join(SOLUTIONS))
        if self.problems < 0 or not (self.problems or self.gsm8k or self.programs):
            raise ConfigError(
                f"data.problems must be positive without data.gsm8k or data.programs, got {self.problems}"
            )


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


def held_out(
    data: MathData, settings: dict[str, Any], count: int, splits: Sequence[str] = ("in_distribution", "new_skeleton")
) -> dict[str, list[Problem]]:
    """Return `count` test problems of each split, none of which training sees.

    in_distribution: like training. new_skeleton: kinds and phrasings in an order that training never shows.
    new_theme: about objects of another theme. deeper: one or two steps more. distractor: each with an idle remark.
    """
    low, high = settings["steps"]
    deeper = settings | {"steps": (high + 1, min(high + 2, len(STEP_WEIGHTS)))}
    streams = {  # settings, and which problems belong to the split
        "in_distribution": (settings, lambda p: not (p.new_skeleton or p.new_theme)),
        "new_skeleton": (settings, lambda p: p.new_skeleton and not p.new_theme),
        "new_theme": (settings, lambda p: p.new_theme and not p.new_skeleton),
        "deeper": (deeper, lambda p: not p.new_theme),
        "distractor": (
            settings | {"distractor": 1.0},
            lambda p: p.distractor and not (p.new_skeleton or p.new_theme),
        ),
    }
    found = {}
    for split in splits:
        stream, belongs = streams[split]
        problems = (problem(data.seed, index, **stream) for index in itertools.count(HELD_OUT))
        found[split] = list(islice(filter(belongs, problems), count))
    return found


def training_problems(data: MathData, settings: dict[str, Any], test: set[str], workers: int = 1) -> Iterator[Problem]:
    """Yield problems without end, none of a held-out skeleton or theme and none with a question of the test.

    They are the same, in the same order, for any number of worker processes.
    """
    with contextlib.closing(_in_order(data.seed, settings, workers)) as chunks:
        for chunk in chunks:
            yield from (p for p in chunk if p.question not in test)


def _in_order(seed: int, settings: dict[str, Any], workers: int) -> Iterator[list[Problem]]:
    starts = itertools.count(0, CHUNK)
    if workers == 1:
        yield from (_chunk(seed, settings, start, 1) for start in itertools.count())
        return
    # Spawned, not forked: a process that runs JAX has threads.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        under_way = deque(pool.submit(_chunk, seed, settings, next(starts)) for _ in range(2 * workers))
        while True:
            under_way.append(pool.submit(_chunk, seed, settings, next(starts)))
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _chunk(seed: int, settings: dict[str, Any], start: int, size: int = CHUNK) -> list[Problem]:
    problems = (problem(seed, index, **settings) for index in range(start, start + size))
    return [p for p in problems if not (p.new_skeleton or p.new_theme)]


def build(
    data: MathData, settings: dict[str, Any], test: set[str], folder: Path, published: Sequence[str] = ()
) -> Built:
    """Build codec and corpus in a folder, or use those that it holds already.

    `settings` are the generator's; no training question is one of `test`, nor like one of `published`.
    """
    mixture = folder / "mixture.json"
    codec = _codec(data, settings, test, folder / "codec.json")
    first = [problem(data.seed, index, **settings) for index in range(100)]
    origin = {
        "generator": settings,
        "first_problems": hashlib.sha256(repr(first).encode()).hexdigest(),
        "data": asdict(data)
        | {
            "gsm8k": data.gsm8k and gsm8k.digests(data.gsm8k),
            "programs": [digest(path) for path in data.programs or ()],
            "tokenizer": None,  # the digest below says which one it is
        },
        "codec": codec.digest,
    }

    def documents() -> Iterator[Document]:
        rows, facts = mix(data, settings, test, published)
        for row in rows:
            made = document(codec, row, data.question_weight)
            fits = len(made.tokens) <= data.length + 1
            facts["documents" if fits else "too_long"] += 1
            if fits:
                yield made
        write_whole(mixture, json.dumps(facts))

    build_corpus(folder / "corpus", "tinygsm", {"train": documents}, data.length, origin)
    return Built(folder / "corpus", codec, json.loads(mixture.read_text()) | {"codec_sha256": codec.digest})


def _codec(data: MathData, settings: dict[str, Any], test: set[str], path: Path) -> Any:
    if data.tokenizer is not None:
        from lm.interop import load_codec

        return load_codec(Path(data.tokenizer))
    if not path.exists():
        _learn_codec(data, settings, test).save(path)
    return Codec.load(path)


def _learn_codec(data: MathData, settings: dict[str, Any], test: set[str]) -> Codec:
    forms = cycle(data.solutions)
    rows = [solution_of(p, next(forms)) for p in islice(training_problems(data, settings, test), CODEC_PROBLEMS)]
    texts = [text for row in rows for text in (row.question, row.solution)]
    if data.gsm8k is not None:
        train, _ = gsm8k.load(data.gsm8k)
        texts += [q.question for q in train[:CODEC_PROBLEMS]]
    return Codec.train(texts, data.vocabulary)


def mix(
    data: MathData, settings: dict[str, Any], test: set[str], published: Sequence[str] = ()
) -> tuple[Iterator[Row], Counter[str]]:
    """Return all training rows, one at a time, and their counts, which are complete once the rows are taken.

    Generated problems, GSM8K's training questions as programs, TinyGSM sets. No row shares 13 words with a test
    question of GSM8K, where it takes part, or with one of `published`.
    """
    counts: Counter[str] = Counter(documents=0, too_long=0)
    train, asked = ([], []) if data.gsm8k is None else gsm8k.load(data.gsm8k)
    contamination = Contamination([*(q.question for q in asked), *published])
    forms = cycle(data.solutions)
    workers = min(os.cpu_count() or 1, MOST_WORKERS) if data.problems >= MANY else 1
    problems = islice(training_problems(data, settings, test, workers), data.problems)
    translated = [Row(q.question, code, True) for q in train if (code := gsm8k.translate(q.solution)) is not None]
    if train:
        counts |= {"gsm8k_train": len(train), "gsm8k_translated": len(translated)}
    parts: list[tuple[str, Iterable[Row]]] = [
        ("generated", (solution_of(p, next(forms)) for p in problems)),
        ("gsm8k", translated * data.gsm8k_repeats),
        (
            "programs",
            (row for path in data.programs or () for row in stored_programs(path) if row.question not in test),
        ),
    ]

    def rows() -> Iterator[Row]:
        for name, part in parts:
            for row in part:
                if contamination.find(row.question) is not None:
                    counts[f"contaminated_{name}_removed"] += 1
                    continue
                counts[name] += 1
                yield row

    return rows(), counts


def stored_programs(path: str) -> Iterator[Row]:
    """Yield the rows of a set in the form of TinyGSM; a program's docstring, which is its question, is left out."""
    for item in read("tinygsm", path):
        yield Row(item.question, split_program(item.solution or "")[1].rstrip(), True)


def digest(path: str) -> str:
    """Return the sha256 of the names and contents of a folder's files."""
    found = hashlib.sha256()
    for file in sorted(p for p in Path(path).rglob("*") if p.is_file()):
        found.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()
