"""Show examples of a task as a reader would write them."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lm.exits import main_guard
from scripts.cli import first_name, parse_over, pick


@dataclass(frozen=True)
class Options:
    size: int | None = None  # default: every test size
    count: int = 2  # examples of each size
    seed: int = 0


def main(argv: list[str]) -> None:
    from tasks.registry import TASKS

    name, rest = first_name(argv, TASKS, "show_task.py", "TASK", __doc__)
    default = pick(TASKS, name, "task")()
    options, values = parse_over(Options, {"task": default}, rest, f"show_task.py {name}", __doc__)
    task = values["task"]
    print(f"{name}: trained on {task.size_name} {' to '.join(map(str, task.train_sizes))}")
    for size in task.test_sizes if options.size is None else (options.size,):
        for index in range(options.count):
            print(f"\n{task.size_name} {size}\n{textwrap.indent(task.show(options.seed, index, size), '    ')}")


if __name__ == "__main__":
    main_guard(main)
