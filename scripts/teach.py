"""Have a teacher model write word problems with programs, over any endpoint in the manner of OpenAI; print the report.

python scripts/teach.py --url http://localhost:8000/v1 --model NAME --gsm8k DIR --out taught
Only questions of GSM8K's training set are shown. The same command goes on after a kill.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lm.exits import main_guard
from scripts.cli import parse, settings_of
from tasks.math.benchmarks import read
from tasks.math.teacher import Lesson, teach


@dataclass(frozen=True, kw_only=True)
class Options(Lesson):
    gsm8k: Path  # folder with train.jsonl
    out: Path  # folder for replies.jsonl, data.jsonl and report.json


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "teach.py", __doc__)
    questions = [item.question for item in read("gsm8k_train", options.gsm8k)]
    print(json.dumps(teach(settings_of(Lesson, options), questions, options.out), indent=1))


if __name__ == "__main__":
    main_guard(main)
