"""Sets of word problems by folder: one declaration a set, one record for all, graders by kind of answer.

for item in read("svamp", folder): ...           # Item(question, answer, solution, choices, origin)
grade_item(item, completion).strict
kept, removed = decontaminate(read("tinygsm", folder), [*read("gsm8k_test", gsm8k), *read("svamp", svamp)])
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from lm.data import read_json, read_jsonl, remove_contaminated, require_texts
from lm.exits import UserError
from lm.strict import nearest
from tasks.math.scorers import Grade, gold_answer, grade, grade_choice, grade_formula, last_boxed

EXAMPLES = 3  # that a report on contamination shows of each test set
OPTION = re.compile(r"\s*\(?([A-Z])\s*\)")
DOCUMENTED = re.compile(r'(def \w+\(\)[^\n]*:[ \t]*\n)[ \t]*("""|\'\'\')(.*?)\2[ \t]*\n', re.S)

Answer = Fraction | str | None


class Item(NamedTuple):
    """A problem. The answer is a number, a letter of `choices`, a formula, or None where a program gives it."""

    question: str
    answer: Answer
    solution: str | None
    choices: tuple[str, ...] | None
    origin: dict[str, Any]  # the fields that no text was read from, as published


@dataclass(frozen=True)
class DataSet:
    """How a set was published: the first of `files` that matches is read, whole or by the line.

    The texts of the `question` fields are joined; `answer` reads a record (ValueError where it cannot).
    """

    files: tuple[str, ...]
    question: tuple[str, ...]
    answer: Callable[[dict[str, Any]], Answer]
    solution: str | None = None
    choices: str | None = None
    whole: bool = False  # a file is one JSON value: a list of records, or one


def number(field: str) -> Callable[[dict[str, Any]], Fraction]:
    """Return a reader of a number, written as one or as text such as "$1,200"."""

    def read_number(record: dict[str, Any]) -> Fraction:
        value = _field(record, field)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"field {field!r} is {type(value).__name__}, not a number")
        try:
            return Fraction(str(value).replace(",", "").replace("$", "").strip())
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"field {field!r} is {str(value)[:40]!a}, not a number") from None

    return read_number


def _worked(record: dict[str, Any]) -> Fraction:
    return gold_answer(record["answer"])


def _letter(record: dict[str, Any]) -> str:
    letter, options = _field(record, "correct"), _list(record, "options")
    if letter not in [match[1] for option in options if (match := OPTION.match(option))]:
        raise ValueError(f"field 'correct' is {letter!a}, none of the options {options!a}")
    return letter


def _boxed(record: dict[str, Any]) -> str:
    answer = record["answer"] if isinstance(record.get("answer"), str) else last_boxed(record["solution"])
    if answer is None:
        raise ValueError("field 'solution' holds no \\boxed{...} and there is no field 'answer'")
    return answer


PAL = {
    name: DataSet((f"{name}.jsonl",), ("input",), number("target"))
    for name in ("addsub", "multiarith", "singleeq", "singleop")
}
SYMBOLIC = {
    name: DataSet((f"{file}.jsonl", f"{folder}/test.jsonl"), ("question",), _worked, "answer")
    for name, file, folder in (
        ("gsm_symbolic", "GSM_symbolic", "main"),
        ("gsm_symbolic_p1", "GSM_p1", "p1"),
        ("gsm_symbolic_p2", "GSM_p2", "p2"),
    )
}
DATA_SETS: dict[str, DataSet] = {
    "gsm8k_train": DataSet(("train.jsonl",), ("question",), _worked, "answer"),
    "gsm8k_test": DataSet(("test.jsonl",), ("question",), _worked, "answer"),
    "gsm_hard": DataSet(("gsmhardv2.jsonl", "gsmhard.jsonl"), ("input",), number("target"), "code"),
    **SYMBOLIC,
    "svamp": DataSet(("SVAMP.json", "test.json"), ("Body", "Question"), number("Answer"), "Equation", whole=True),
    "mawps": DataSet(("mawps_full_cv.jsonl",), ("question",), number("answer"), "equation_prefix"),
    **PAL,
    "aqua_dev": DataSet(("dev.json",), ("question",), _letter, "rationale", "options"),
    "aqua_test": DataSet(("test.json",), ("question",), _letter, "rationale", "options"),
    "math": DataSet(("test.jsonl", "*.jsonl"), ("problem",), _boxed, "solution"),
    "math_train": DataSet(("train/*/*.json",), ("problem",), _boxed, "solution", whole=True),
    "math_test": DataSet(("test/*/*.json",), ("problem",), _boxed, "solution", whole=True),
    "tinygsm": DataSet(
        ("data.jsonl", "*.jsonl", "*.parquet", "data/*.parquet"), ("question",), lambda record: None, "code"
    ),
}


def read(name: str, folder: str | Path) -> Iterator[Item]:
    """Yield the problems of a set in the order of its files; a UserError names file, line, and fields found."""
    if name not in DATA_SETS:
        raise UserError(f"no data set {name!r}{nearest(name, DATA_SETS)} (data sets: {', '.join(DATA_SETS)})")
    form, folder = DATA_SETS[name], Path(folder)
    paths = next((found for pattern in form.files if (found := sorted(folder.glob(pattern)))), [])
    if not paths:
        held = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
        raise UserError(f"{name}: {folder} must hold {' or '.join(form.files)} (found: {held[:300] or 'nothing'})")

    def items() -> Iterator[Item]:
        for path in paths:
            yield from _file(form, path)

    return items()


def split_program(code: str) -> tuple[str | None, str]:
    """Return the docstring of a function that starts the text, or None, and the function without it."""
    match = DOCUMENTED.match(code)
    return (" ".join(match[3].split()), match[1] + code[match.end() :]) if match else (None, code)


def grade_item(item: Item, completion: str) -> Grade:
    """Grade a completion: a number by program or last number, a choice by its letter, a formula as it is boxed."""
    if item.answer is None:
        raise ValueError("the item has no answer to grade against")
    if isinstance(item.answer, Fraction):
        return grade(completion, item.answer)
    return (grade_choice if item.choices else grade_formula)(completion, item.answer)


def decontaminate(
    items: Iterable[Item], tests: Sequence[tuple[str, Iterable[Item]]], n: int = 13
) -> tuple[list[Item], dict[str, Any]]:
    """Return the items that share no n words with a question of the named tests, and a report of the others."""
    asked = [(name, item.question) for name, test in tests for item in test]
    items = list(items)
    kept, collisions = remove_contaminated(items, [text for _, text in asked], text=lambda item: item.question, n=n)
    removed: dict[str, dict[str, Any]] = {name: {"removed": 0, "examples": []} for name, _ in tests}
    for item, test, words in collisions:
        name, question = asked[test]
        removed[name]["removed"] += 1
        if len(removed[name]["examples"]) < EXAMPLES:
            example = {"question": items[item].question, "test": question, "words": words}
            removed[name]["examples"].append(example)
    return kept, {"n": n, "read": len(items), "kept": len(kept), "tests": removed}


def _file(form: DataSet, path: Path) -> Iterator[Item]:
    if path.suffix == ".parquet":
        yield from _numbered(form, path, "row", _parquet(path))
    elif form.whole:
        value = read_json(path)
        yield from _numbered(form, path, "record", value if isinstance(value, list) else [value])
    else:
        yield from read_jsonl(path, make=lambda record: _item(form, record))


def _numbered(form: DataSet, path: Path, what: str, records: Iterable[Any]) -> Iterator[Item]:
    for count, record in enumerate(records, start=1):
        try:
            yield _item(form, record)
        except ValueError as error:
            raise UserError(f"{path}: {what} {count}: {error}") from None


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a readable parquet file: {error}") from None


def _item(form: DataSet, record: Any) -> Item:
    if not isinstance(record, dict):
        raise ValueError(f"a JSON object is needed, not {type(record).__name__}")
    require_texts(record, [*form.question, *filter(None, (form.solution,))])
    question = " ".join(record[name].strip() for name in form.question)
    choices = tuple(_list(record, form.choices)) if form.choices else None
    answer = form.answer(record)
    used = {*form.question, form.solution, form.choices}
    origin = {name: value for name, value in record.items() if name not in used}
    return Item(question, answer, record[form.solution] if form.solution else None, choices, origin)


def _field(record: dict[str, Any], name: str) -> Any:
    if name not in record:
        raise ValueError(f"no field {name!r}{nearest(name, record)} (fields: {', '.join(map(ascii, record))})")
    return record[name]


def _list(record: dict[str, Any], name: str) -> list[str]:
    texts = _field(record, name)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"field {name!r} is not a list of texts")
    return texts
