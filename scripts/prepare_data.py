"""Build what a recipe reads from disk, apart from training: codec and packed corpus, decontaminated, in the run folder.

A complete corpus is kept as it is, so the command may be repeated, and train.py finds it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lm.exits import UserError, main_guard
from scripts.cli import parse_recipe


@dataclass(frozen=True)
class Options:
    workdir: Path | None = None  # run folder (default: runs/RECIPE)


def main(argv: list[str]) -> None:
    options, recipe = parse_recipe(Options, argv, "prepare_data.py", __doc__)
    if recipe.data is None:
        raise UserError(f"{recipe.name} draws its data inside the training step: there is nothing to prepare")
    folder = options.workdir or Path("runs") / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(recipe.task.source(recipe, folder).facts))


if __name__ == "__main__":
    main_guard(main)
