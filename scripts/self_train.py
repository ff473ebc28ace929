"""Let a trained generator learn from its own right programs, and examine it before and after.

python scripts/self_train.py --generator runs/tinygsm_cpu --workdir runs/duo --problems 0
Programs are sampled and graded as by duo.py, whose samples in the same workdir are used. The last line on stdout is the
summary as JSON.
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
from scripts.runs import read_recipe
from tasks.math.self_training import Round, run_round


@dataclass(frozen=True, kw_only=True)
class Options(Round):
    generator: Path  # run folder of a trained generator
    workdir: Path  # folder of the round
    quiet: bool = False  # no progress lines


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "self_train.py", __doc__)
    settings, recipe = settings_of(Round, options), read_recipe(options.generator)
    summary = run_round(recipe, options.generator, options.workdir, settings, options.quiet)
    print(json.dumps(summary))


if __name__ == "__main__":
    main_guard(main)
