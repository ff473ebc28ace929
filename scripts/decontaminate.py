"""Keep the problems of a set that share no 13 words in a row with test sets; print what was removed as JSON.

python scripts/decontaminate.py --train tinygsm:DIR --tests gsm8k_test:DIR svamp:DIR --out clean.jsonl
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lm.exits import UserError, main_guard
from lm.files import write_rows
from scripts.cli import parse
from tasks.math.benchmarks import Item, decontaminate, read


@dataclass(frozen=True)
class Options:
    train: str  # what to clean, as NAME:FOLDER
    tests: tuple[str, ...]  # what must not be in it, each as NAME:FOLDER
    out: Path | None = None  # jsonl file for what is kept: question and code, the solution as it stands
    n: int = 13  # words in a row; digits and punctuation do not count


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "decontaminate.py", __doc__)
    train, tests = _items(options.train), [(spec, _items(spec)) for spec in options.tests]
    if not tests:
        raise UserError("--tests must name at least one set, as NAME:FOLDER")
    if options.out is not None and options.out.exists():
        raise UserError(f"--out {options.out} exists; a file is never written over")
    kept, report = decontaminate(train, tests, options.n)
    if options.out is not None:
        write_rows(options.out, ({"question": i.question, "code": i.solution} for i in kept))
    print(json.dumps(report, indent=1))


def _items(spec: str) -> Iterator[Item]:
    name, colon, folder = spec.partition(":")
    if not colon:
        raise UserError(f"a set is given as NAME:FOLDER, got {spec!r}")
    return read(name, folder)


if __name__ == "__main__":
    main_guard(main)
