"""Two scorers that are always reported together, strict and lenient, and how answers are read from text.

>>> grade("def solve():\\n    return 36 / 4", 9)
Grade(strict=True, lenient=True, outcome=Outcome(status='ok', value=9.0))
>>> grade("Each friend gets 9 apples.", 9)
Grade(strict=False, lenient=True, outcome=Outcome(status='syntax', value=None))
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from tasks.math.interpreter import Outcome, extract, run

NUMBER = re.compile(r"-?\$?\d+(?:\.\d+)?")
LETTER = re.compile(r"(?<![A-Za-z])([A-Z])(?![A-Za-z'])")
TOLERANCE = Fraction(1, 1000)


class Grade(NamedTuple):
    """How a completion did. Strict: the executed program gives the gold answer. Lenient: so it does, or the
    program gives no number at all and the last number written in the completion is the gold answer."""

    strict: bool
    lenient: bool
    outcome: Outcome


def grade(completion: str, gold: int | Fraction, run: Callable[[str], Outcome] = run) -> Grade:
    """Run the program in a completion, by the interpreter or by `jail.run`, and grade it both ways."""
    outcome = run(extract(completion))
    strict = outcome.status == "ok" and is_right(outcome.value, gold)
    return Grade(strict, strict or (outcome.status != "ok" and is_right(last_number(completion), gold)), outcome)


def grade_text(completion: str, gold: int | Fraction) -> Grade:
    """Grade a solution in words by the last number in it; nothing is run and both scorers agree."""
    number = last_number(completion)
    right = is_right(number, gold)
    outcome = Outcome("non_numeric") if number is None else Outcome("ok", float(number))
    return Grade(right, right, outcome)


def grade_choice(completion: str, letter: str) -> Grade:
    """Grade a choice by the last capital letter that stands alone; nothing is run and both scorers agree."""
    letters = LETTER.findall(completion)
    return _by_text(bool(letters) and letters[-1] == letter)


def grade_formula(completion: str, gold: str) -> Grade:
    """Grade the last \\boxed{...} of a completion, as a number where both are one, else by the signs written."""
    found = last_boxed(completion)
    if found is None:
        return _by_text(False)
    ours, theirs = (_plain_formula(text) for text in (found, gold))
    numbers = [NUMBER.fullmatch(text) for text in (ours, theirs)]
    return _by_text(is_right(Fraction(ours), Fraction(theirs)) if all(numbers) else ours == theirs)


def last_boxed(text: str) -> str | None:
    """Return what the last \\boxed{...} or \\fbox{...} of a text holds, braces balanced, or None."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    first = text.index("{", start) + 1
    depth = 1
    for end in range(first, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0:
            return text[first:end]
    return None


def _by_text(right: bool) -> Grade:
    return Grade(right, right, Outcome("non_numeric"))


def _plain_formula(text: str) -> str:
    """Return a formula without what does not change it: spaces, dollars, sizes of brackets, groups of digits."""
    text = re.sub(r"\\(?:left|right|!|,|;| )|[\s$]|\\%|\^\{?\\circ\}?|\\text\{[^{}]*\}$|\.$", "", text)
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")


def is_right(value: float | Fraction | None, gold: int | Fraction) -> bool:
    """Return whether a finite number is within 0.001 of the gold answer; None is wrong."""
    return value is not None and abs(Fraction(value) - gold) <= TOLERANCE


def last_number(text: str) -> Fraction | None:
    """Return the last number of a text, where `,` may group digits and `$` may precede them, or None."""
    numbers = NUMBER.findall(text.replace(",", ""))
    return Fraction(numbers[-1].replace("$", "")) if numbers else None


def gold_answer(solution: str) -> Fraction:
    """Return the number after the last `####` of a GSM8K solution; ValueError where there is none."""
    _, mark, answer = solution.rpartition("####")
    cleaned = answer.replace(",", "").replace("$", "").strip()
    if not mark or not NUMBER.fullmatch(cleaned):
        raise ValueError("the solution does not end with '#### NUMBER'")
    return Fraction(cleaned)
