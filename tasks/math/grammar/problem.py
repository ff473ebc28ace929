"""What a word problem is, and the quantities it is about: exact values that remember how they were computed.

>>> apples, price = Term.named("apples", Term.literal(12)), Term.literal(3)
>>> (apples * price).code, (apples * price).digits, (apples * price).value
('apples * 3', '12*3', Fraction(36, 1))
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from fractions import Fraction

from tasks.math.grammar.words import HELD_OUT_THEMES

SUM, PRODUCT, POWER, ATOM = 1, 2, 3, 4  # how tightly a term binds, for parentheses


@dataclass(frozen=True, slots=True)
class Term:
    """A quantity: its exact value, the expression over variables, and the same expression over numbers."""

    value: Fraction
    code: str
    digits: str
    binding: int = ATOM

    @staticmethod
    def literal(value: int | Fraction) -> Term:
        """Return a number as the question writes it."""
        return Term(Fraction(value), figure(value), figure(value))

    @staticmethod
    def named(name: str, term: Term) -> Term:
        """Return the variable that holds a term."""
        return Term(term.value, name, figure(term.value))

    def __add__(self, other: Term) -> Term:
        return self._join("+", self.value + other.value, other, SUM)

    def __sub__(self, other: Term) -> Term:
        return self._join("-", self.value - other.value, other, SUM)

    def __mul__(self, other: Term) -> Term:
        return self._join("*", self.value * other.value, other, PRODUCT)

    def __truediv__(self, other: Term) -> Term:
        return self._join("/", self.value / other.value, other, PRODUCT)

    def __mod__(self, other: Term) -> Term:
        return self._join("%", self.value % other.value, other, PRODUCT)

    def __pow__(self, other: Term) -> Term:
        (base, base_digits), (power, power_digits) = self._within(ATOM), other._within(ATOM)
        value = self.value ** int(other.value)
        return Term(Fraction(value), f"{base} ** {power}", f"{base_digits}**{power_digits}", POWER)

    def ceil(self) -> Term:
        """Return the quantity rounded up."""
        return Term(Fraction(math.ceil(self.value)), f"math.ceil({self.code})", f"math.ceil({self.digits})")

    def _within(self, binding: int) -> tuple[str, str]:
        """Return code and digits, in parentheses unless they bind so tightly."""
        return (self.code, self.digits) if self.binding >= binding else (f"({self.code})", f"({self.digits})")

    def _join(self, sign: str, value: Fraction, other: Term, binding: int) -> Term:
        left, right = self._within(binding), other._within(binding + 1)
        return Term(value, f"{left[0]} {sign} {right[0]}", f"{left[1]}{sign}{right[1]}", binding)


def figure(value: int | Fraction) -> str:
    """Write an amount: an integer plainly, anything else with two decimals."""
    return str(int(value)) if value == int(value) else f"{float(value):.2f}"


@dataclass(frozen=True)
class Problem:
    """A word problem with its solution as a program and as text.

    `kinds` are the step kinds in order; `skeleton` spells kinds and phrasings without what fills their slots;
    `theme` names that of the objects, or is "" where none is told of; `distractor` is the
    sentence that does not matter, or "".
    """

    question: str
    code: str
    text: str
    answer: Fraction
    kinds: tuple[str, ...]
    skeleton: str
    theme: str = ""
    distractor: str = ""

    @property
    def steps(self) -> int:
        return len(self.kinds)

    @property
    def new_skeleton(self) -> bool:
        """Whether the skeleton belongs to the tenth that training never sees."""
        return int.from_bytes(hashlib.blake2b(self.skeleton.encode(), digest_size=8).digest()) % 10 == 0

    @property
    def new_theme(self) -> bool:
        """Whether the objects are of a theme that training never sees."""
        return self.theme in HELD_OUT_THEMES
