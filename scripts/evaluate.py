"""Evaluate the newest checkpoint of a run and print the figures as one JSON object.

Fields of the run's task and data may be changed on the way: --task.length 128
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lm.exits import main_guard
from scripts.cli import parse_first, parse_over


@dataclass(frozen=True)
class Options:
    workdir: Path  # run folder


@dataclass(frozen=True)
class Nothing:
    """No further options."""


def main(argv: list[str]) -> None:
    options, rest = parse_first(Options, argv, "evaluate.py", __doc__)
    import jax

    from lm.step import EVALUATE, purpose
    from lm.trained import load
    from scripts.runs import read_recipe

    recipe = read_recipe(options.workdir)
    values = {name: value for name in ("task", "data") if (value := getattr(recipe, name)) is not None}
    _, changed = parse_over(Nothing, values, rest, "evaluate.py", __doc__)
    recipe, net, source, params, step = load(dataclasses.replace(recipe, **changed), options.workdir)
    evaluation = source.evaluate(net, params, purpose(jax.random.key(recipe.train.seed), EVALUATE))
    print(json.dumps({"recipe": recipe.name, "step": step, **evaluation.figures()}))


if __name__ == "__main__":
    main_guard(main)
