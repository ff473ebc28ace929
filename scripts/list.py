"""Print the tasks, the recipes and the claims."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lm.exits import main_guard
from scripts.cli import parse


@dataclass(frozen=True)
class Options:
    """There is nothing to choose."""


def first_line(thing: object) -> str:
    """Return the first line of a docstring."""
    return (thing.__doc__ or "").strip().partition("\n")[0]


def table(title: str, rows: list[tuple[str, str]]) -> None:
    """Print aligned rows under a title."""
    width = max(len(name) for name, _ in rows)
    print(f"{title}\n" + "\n".join(f"  {name:{width}}  {text}" for name, text in rows) + "\n")


def main(argv: list[str]) -> None:
    parse(Options, argv, "list.py", __doc__)
    from scripts.results import bar
    from tasks.registry import EXPERIMENTS, RECIPES, TASKS

    table("Tasks", [(name, first_line(task)) for name, task in sorted(TASKS.items())])
    table("Recipes", [(name, first_line(recipe)) for name, recipe in sorted(RECIPES.items())])
    for name, experiment in sorted(EXPERIMENTS.items()):
        claims = [(f"{claim.scale}: {claim.metric} {bar(claim)}", claim.statement) for claim in experiment.claims]
        table(f"Claims of {name}: {experiment.paper}", claims)


if __name__ == "__main__":
    main_guard(main)
