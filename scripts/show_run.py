"""Show how a run ended: its figures with their intervals, examples that it got right, and where the report is."""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lm.exits import UserError, main_guard
from lm.report.folder import read_status
from scripts.cli import parse


@dataclass(frozen=True)
class Options:
    workdir: Path  # run folder
    examples: int = 3


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "show_run.py", __doc__)
    folder, status = options.workdir, read_status(options.workdir)
    state = ": ".join(status[name] for name in ("state", "error") if name in status)
    for name in ("samples.jsonl", "summary.json"):
        if not (folder / name).is_file():
            raise UserError(f"no evaluated run in {folder}: {name} is missing{f' ({state})' if state else ''}")
    if state not in ("", "done"):
        print(f"{state}\n")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    examples = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    for example in [e for e in examples if e["right"]][: options.examples]:
        for name in ("question", "program", "prediction", "target"):
            text = example[name].strip() if name in example else ""
            if text:
                print(f"{name}:\n{textwrap.indent(text, '    ')}" if "\n" in text else f"{name}: {text}")
        print()
    for name, rate in summary["metrics"].items():
        form, unit = (".4g", f" {rate['unit']}") if "unit" in rate else (".1%", "")
        value, low, high = (format(rate[part], form) for part in ("value", "low", "high"))
        print(f"{name}: {value}{unit} (95 % interval {low} to {high}, n = {rate['count']:,})")
    print(f"report: {folder / 'report.html'}")


if __name__ == "__main__":
    main_guard(main)
