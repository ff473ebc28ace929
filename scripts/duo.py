"""Train a verifier for a trained generator and choose among its programs: the whole duo, stage by stage.

python scripts/duo.py --generator runs/tinygsm_cpu --workdir runs/duo --steps 300 400
Samples are graded by execution; with --gsm8k DIR the questions are GSM8K's, in the paper's sizes with --questions 7000
--held_out 473 --test 1319 --samples 48 --temperatures 0.5 0.7 --steps 1000 6000 12000. The same command goes on after a
kill. The last line on stdout is the summary as JSON; report.html shows every rule over the number of candidates.
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
from tasks.math.duo import Duo, run_duo


@dataclass(frozen=True, kw_only=True)
class Options(Duo):
    generator: Path  # run folder of a trained generator
    workdir: Path  # folder of the duo
    quiet: bool = False  # no progress lines


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "duo.py", __doc__)
    duo, recipe = settings_of(Duo, options), read_recipe(options.generator)
    summary = run_duo(recipe, options.generator, options.workdir, duo, options.quiet)
    print(json.dumps(summary))


if __name__ == "__main__":
    main_guard(main)
