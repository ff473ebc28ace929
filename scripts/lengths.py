"""Train a recipe under several position schemes and seeds; draw accuracy by length with the trained range marked."""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lm.exits import UserError, main_guard
from lm.files import write_whole
from lm.strict import to_json
from scripts.cli import parse_recipe


@dataclass(frozen=True)
class Options:
    schemes: tuple[str, ...] = ()  # of positions; the recipe's own where none is given
    seeds: int = 3  # how many, counted from 0
    workdir: Path | None = None  # default: runs/lengths-RECIPE


def main(argv: list[str]) -> None:
    options, recipe = parse_recipe(Options, argv, "lengths.py", __doc__)
    from lm.report.pictures import draw
    from lm.report.svg import standalone
    from lm.sweep import run_sweep
    from tasks.lengths import accuracy_picture, by_size, longest, with_scheme

    task, folder = recipe.task, options.workdir or Path("runs") / f"lengths-{recipe.name}"
    recipes = {scheme: with_scheme(recipe, scheme) for scheme in options.schemes} or {recipe.name: recipe}
    said = {"recipes": {name: json.loads(to_json(each)) for name, each in recipes.items()}, "seeds": options.seeds}
    kept = folder / "lengths.json"
    if kept.exists() and {name: json.loads(kept.read_text()).get(name) for name in said} != said:
        raise UserError(f"{kept} holds other runs; name another folder with --workdir")
    folder.mkdir(parents=True, exist_ok=True)
    measured: dict[str, list[float]] = {}
    for name, each in recipes.items():
        members = run_sweep(each, {}, range(options.seeds), folder).members
        found = [by_size(member.evaluation, task.size_name) for member in members]
        measured |= {f"{name}@{size}": [accuracies[size] for accuracies in found] for size in found[0]}
        reach = sorted(longest(accuracies) for accuracies in found)
        held = f"{statistics.median(reach):g} {task.size_name} (from {reach[0]} to {reach[-1]} over {len(reach)} seeds)"
        print(f"{name}: exact match 95 % up to {held}; trained to {task.train_sizes[1]}")
    write_whole(kept, json.dumps({**said, "exact_match": measured}, indent=1))
    picture = accuracy_picture(
        measured, list(recipes), title=recipe.name, size_name=task.size_name, trained=task.train_sizes
    )
    write_whole(kept.with_suffix(".svg"), standalone(draw(picture)))
    print(f"{kept}, {kept.with_suffix('.svg')}")


if __name__ == "__main__":
    main_guard(main)
