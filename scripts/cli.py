"""Command lines over frozen dataclasses: the options of a script, dotted fields of a recipe, errors in one line.

options, recipe = parse_recipe(Options, ["flip_flop", "--train.steps", "100"], "train.py", __doc__)
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any, TypeVar

from lm.config import ObjectiveConfig, Recipe, TransformConfig
from lm.exits import UserError
from lm.strict import nearest
from scripts.choices import alternatives

T = TypeVar("T")
PLAINER = (
    (r"^Error parsing ", ""),
    (r"^(\w+): (?=\1\.)", ""),
    (r"no type matching (.+?) could be instantiated from \[(.*?)\]\. Got errors.*", r"\2 is not \1"),
    (r"invalid literal for int\(\) with base 10:|could not convert string to float:", "not a number of this kind:"),
)
OPEN = (
    "task",
    "model",
    "optimizer",
    "train",
    "mesh",
    "objective",
    "transforms",
    "growth",
    "data",
    "weights",
)  # what a flag may change in a recipe


def parse(form: type[T], argv: list[str], prog: str, about: str | None) -> T:
    """Return an instance of a dataclass from command-line arguments; a mistake is a UserError in one line."""
    return _parse(form, argv, prog, about)


def parse_first(form: type[T], argv: list[str], prog: str, about: str | None) -> tuple[T, list[str]]:
    """Return an instance of a dataclass and the arguments that are none of its fields."""
    return _parse(form, argv, prog, about, return_unknown_args=True)


def settings_of(form: type[T], options: T) -> T:
    """Return the settings that a script's own options extend, without those."""
    return form(**{field.name: getattr(options, field.name) for field in dataclasses.fields(form)})  # type: ignore[arg-type]


def parse_over(
    form: type[T], values: Mapping[str, Any], argv: list[str], prog: str, about: str | None
) -> tuple[T, dict[str, Any]]:
    """Return a script's own options, and the values with the dotted overrides of their fields (`--train.steps 4`)."""
    import tyro

    entries: list[Any] = [("options", Annotated[form, tyro.conf.arg(name="")])]
    for name, value in values.items():
        kind: Any = tuple[TransformConfig, ...] if isinstance(value, tuple) else type(value)
        if name == "objective":
            kind = ObjectiveConfig
        if name == "weights":
            kind = str | None
        hint = Annotated[kind, tyro.conf.FlagConversionOff]
        entries.append((name, hint, dataclasses.field(default=value)))
    arguments = parse(dataclasses.make_dataclass("Arguments", entries, kw_only=True), argv, prog, about)
    return arguments.options, {name: getattr(arguments, name) for name in values}


def parse_recipe(form: type[T], argv: list[str], prog: str, about: str | None) -> tuple[T, Recipe]:
    """Return a script's own options and the recipe that the first argument names, with its dotted overrides."""
    from tasks.registry import RECIPES

    name, rest = first_name(argv, RECIPES, prog, "RECIPE", about)
    recipe = pick(RECIPES, name, "recipe")()
    values = {name: value for name in OPEN if (value := getattr(recipe, name)) is not None or name == "weights"}
    options, changed = parse_over(form, values, rest, f"{prog} {name}", about)
    return options, dataclasses.replace(recipe, **changed)


def in_phases(recipe: Recipe, words: Sequence[str]) -> Recipe:
    """Return the recipe with a curriculum over a field of its task, given as words: longest_train 5 10 20."""
    from tasks.mixture import curriculum

    field, *values = words
    if not all(value.isdecimal() for value in values):
        raise UserError(f"a curriculum is a field of the task and its whole numbers, got {' '.join(words)}")
    return dataclasses.replace(recipe, task=curriculum(recipe.task, field, tuple(map(int, values))))


def parse_grid(form: type[T], argv: list[str], prog: str, about: str | None) -> tuple[T, Recipe, dict[str, list[Any]]]:
    """Return options, recipe and grid: a flag with one value changes the recipe, one with several spans the grid."""
    groups: list[list[str]] = [argv[:1]]
    for word in argv[1:]:
        if word.startswith("--"):
            groups.append([word])
        else:
            groups[-1].append(word)
    single = [word for group in groups if len(group) <= 2 for word in group]
    options, recipe = parse_recipe(form, single, prog, about)
    grid = {}
    for flag, *words in (group for group in groups if len(group) > 2):
        path = flag.removeprefix("--").replace("-", "_")
        if path in {field.name for field in dataclasses.fields(form)}:
            raise UserError(f"{flag} takes one value, got {' '.join(words)}")
        changed = [parse_recipe(form, [*single, flag, word], prog, about)[1] for word in words]
        grid[path] = [attrgetter(path)(each) for each in changed]
    return options, recipe, grid


def first_name(
    argv: list[str], registry: Mapping[str, Any], prog: str, what: str, about: str | None
) -> tuple[str, list[str]]:
    """Split the name that a command line starts with from the rest; `--help` without a name lists the names."""
    names = ", ".join(sorted(registry))
    if argv[:1] in (["-h"], ["--help"]):
        print(f"usage: {prog} {what} [OPTIONS]\n\n{about}\n\n{what} is one of {names}")
        print(f"`{prog} {what} --help` lists the options of one.")
        raise SystemExit(0)
    if not argv or argv[0].startswith("-"):
        raise UserError(f"give a name first: {prog} {what} [OPTIONS], {what} is one of {names}")
    return argv[0], argv[1:]


def pick(registry: Mapping[str, T], name: str, what: str) -> T:
    """Return an entry of a registry; an unknown name is a UserError with the nearest ones."""
    if name not in registry:
        raise UserError(f"no {what} {name!r}{nearest(name, registry)} ({what}s: {', '.join(sorted(registry))})")
    return registry[name]


def _parse(form: type, argv: list[str], prog: str, about: str | None, **settings: Any) -> Any:
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                form,
                args=argv,
                prog=prog,
                description=about,
                config=(tyro.conf.FlagCreatePairsOff,),
                registry=alternatives(),
                use_underscores=True,
                **settings,
            )
    except SystemExit as end:
        if end.code == 0:
            raise
        raise UserError(_sentence(said.getvalue(), prog)) from None


def _sentence(box: str, prog: str) -> str:
    """Reduce the parser's framed message to one statement, with the nearest options where one was unknown."""
    # A title, then sections between rules; the frame is drawn in ASCII where the terminal is.
    lines = [re.sub(r"[│╭╮╰╯]|\x1b\[[\d;]*m", "", line).strip() for line in box.replace("─", "-").splitlines()]
    _, *body = filter(None, lines)
    statement, *rest = filter(str.strip, re.split(r"^-{10,}$", "\n".join(body), flags=re.M))
    statement = " ".join(statement.split()).rstrip(".")
    for wordy, plain in PLAINER:
        statement = re.sub(wordy, plain, statement)
    if not statement.startswith("Unrecognized"):
        return statement
    near = re.findall(r"^(--[\w.]+)", "\n".join(rest), re.M)[:2]
    return f"{statement}; " + (f"did you mean {' or '.join(near)}?" if near else f"{prog} --help lists what there is")
