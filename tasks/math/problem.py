"""What a word problem is, and the quantities it is about: exact values that remember how they were computed.

>>> apples, price = Term.named("apples", Term.literal(12)), Term.literal(3)
>>> (apples * price).code, (apples * price).digits, (apples * price).value
('apples * 3', '12*3', Fraction(36, 1))
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction

SUM, PRODUCT, ATOM = 1, 2, 3  # how tightly a term binds, for parentheses


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

    def _join(self, sign: str, value: Fraction, other: Term, binding: int) -> Term:
        left = (self.code, self.digits) if self.binding >= binding else (f"({self.code})", f"({self.digits})")
        right = (other.code, other.digits) if other.binding > binding else (f"({other.code})", f"({other.digits})")
        return Term(value, f"{left[0]} {sign} {right[0]}", f"{left[1]}{sign}{right[1]}", binding)


def figure(value: int | Fraction) -> str:
    """Write an amount: an integer plainly, anything else with two decimals."""
    return str(int(value)) if value == int(value) else f"{float(value):.2f}"


@dataclass(frozen=True)
class Problem:
    """A word problem with its solution as a program and as text.

    `kinds` are the step kinds in order; `skeleton` spells kinds and phrasings without what fills their slots;
    `distractor` is the sentence that does not matter, or "".
    """

    question: str
    code: str
    text: str
    answer: Fraction
    kinds: tuple[str, ...]
    skeleton: str
    distractor: str = ""

    @property
    def steps(self) -> int:
        return len(self.kinds)

    @property
    def new_skeleton(self) -> bool:
        """Whether the skeleton belongs to the tenth that training never sees."""
        return int.from_bytes(hashlib.blake2b(self.skeleton.encode(), digest_size=8).digest()) % 10 == 0
