"""Examine a run, or a model of another library, with lm-evaluation-harness on tasks read from folders.

python scripts/harness.py --model model.gguf --tasks blimp=DIR gsm8k=DIR --count 10
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lm.exits import UserError, main_guard
from scripts.cli import parse, pick
from scripts.runs import text_model_of


@dataclass(frozen=True)
class Options:
    tasks: tuple[str, ...]  # NAME=FOLDER, of blimp and gsm8k
    workdir: Path | None = None  # a run folder with a codec
    model: Path | None = None  # or a folder of Hugging Face, or a .gguf file
    count: int | None = None  # examples of each task (of blimp: pairs a paradigm); all of them otherwise
    shots: int = 0  # solved examples before each question
    max_length: int = 1024  # tokens that the model sees


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "harness.py", __doc__)
    from tasks.harness import LOCAL

    named = [task.partition("=") for task in options.tasks]
    tasks = [pick(LOCAL, name, "task")(Path(folder), options.count, options.shots) for name, _, folder in named]
    try:
        import lm_eval

        from lm.interop.harness import HarnessModel
    except ImportError:
        raise UserError("lm-evaluation-harness is not installed: pip install 'cambium-lm[eval]'") from None
    model = text_model_of(options.workdir, options.model, options.max_length)
    found = lm_eval.simple_evaluate(model=HarnessModel(model), tasks=tasks, bootstrap_iters=0)
    for name, metrics in found["results"].items():
        figures = {key.partition(",")[0]: value for key, value in metrics.items() if isinstance(value, int | float)}
        print(json.dumps({"task": name, **figures}))


if __name__ == "__main__":
    main_guard(main)
