"""GSM8K (Cobbe et al. 2021) from a folder on disk, and its worked solutions as programs.

>>> print(translate("He sold 48/2 = <<48/2=24>>24 clips.\\nIn all 48+24 = <<48+24=72>>72.\\n#### 72"))
def solve():
    clips = 48 / 2
    result = 48 + clips
    return result
"""

from __future__ import annotations

import ast
import hashlib
import keyword
import re
from fractions import Fraction
from pathlib import Path

from tasks.math.benchmarks import Item, read
from tasks.math.interpreter import FUNCTIONS, run
from tasks.math.scorers import gold_answer, is_right

FILES = ("train.jsonl", "test.jsonl")
# <<expression=value>>value unit
ANNOTATION = re.compile(r"<<([^<>=]{1,100})=([^<>=]{1,30})>>[\d.,%]* *([A-Za-z]*)")


def load(folder: str | Path) -> tuple[list[Item], list[Item]]:
    """Return the training and the test questions; a missing file or field is a UserError that names what is there."""
    return list(read("gsm8k_train", folder)), list(read("gsm8k_test", folder))


def digests(folder: str | Path) -> dict[str, str]:
    """Return the sha256 of the two files."""
    return {name: hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest() for name in FILES}


def translate(solution: str) -> str | None:
    """Return an annotated solution as a program, or None unless the program gives the gold answer.

    Every annotation becomes a line; numbers that equal an earlier result become its variable, which is named
    after the word that follows the result.
    """
    names: dict[Fraction, str] = {}
    lines: list[tuple[str, str]] = []
    for expression, value, unit in ANNOTATION.findall(solution):
        try:
            tree = ast.parse(expression.strip(), mode="eval")
            result = Fraction(value.replace(",", ""))
        except (SyntaxError, ValueError, ZeroDivisionError):
            return None
        name = _name(unit, [name for name, _ in lines])
        lines.append((name, ast.unparse(_Renamed(names).visit(tree))))
        names[result] = name
    if not lines:
        return None
    lines[-1] = ("result", lines[-1][1])
    body = "".join(f"    {name} = {expression}\n" for name, expression in lines)
    program = f"def solve():\n{body}    return result"
    outcome = run(program)
    return program if outcome.status == "ok" and is_right(outcome.value, gold_answer(solution)) else None


class _Renamed(ast.NodeTransformer):
    """Put variables in the place of the numbers that they hold."""

    def __init__(self, names: dict[Fraction, str]):
        self.names = names

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        known = isinstance(node.value, int | float) and Fraction(str(node.value)) in self.names
        return ast.Name(self.names[Fraction(str(node.value))]) if known else node


def _name(unit: str, taken: list[str]) -> str:
    """Return a fresh variable name after a word."""
    word = unit.lower()
    if len(word) < 2 or keyword.iskeyword(word) or word in (*FUNCTIONS, "math", "result"):
        word = "value"
    return next(name for name in (word, *(f"{word}_{i}" for i in range(2, 100))) if name not in taken)
