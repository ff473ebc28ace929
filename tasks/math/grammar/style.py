"""How a problem is worded, apart from its steps: numbers as words, units in full, facts merged or in another order.

None of it changes what is asked, so the program stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SYMBOL = re.compile(r"\$\{(\w+)\}|\{(\w+)\}%")  # a number with its unit as a sign
BARE = re.compile(r"(?<!\$)\{(\w+)\}(?!%)")  # a number without


class Sentence(NamedTuple):
    """A sentence as it was told. `fixed` facts hold whenever they are told; `asks` marks the question of a unit."""

    text: str
    pronoun: bool = False
    fixed: bool = False
    asks: bool = False


@dataclass(frozen=True)
class Style:
    """How often: a number is a word, units are written out, two facts become one sentence, facts that hold anyway
    are told in another order, the question comes first."""

    words: float = 0.0
    units: float = 0.0
    merged: float = 0.0
    shuffled: float = 0.0
    asked_first: float = 0.0

    def template(self, rng: Random, template: str) -> str:
        """Return a template with "${n}" and "{n}%" written out, or as it is."""
        if rng.random() >= self.units:
            return template
        return SYMBOL.sub(lambda m: f"{{{m[1]}}} dollars" if m[1] else f"{{{m[2]}}} percent", template)

    def slots(self, rng: Random, template: str, slots: dict[str, str]) -> dict[str, str]:
        """Return the slots with some of the small numbers that stand without a sign as words."""
        plain = [name for name in BARE.findall(template) if slots[name].isdecimal()]
        worded = [name for name in plain if int(slots[name]) < 100 and rng.random() < self.words]
        return slots | {name: in_words(int(slots[name])) for name in worded}

    def arrange(self, rng: Random, sentences: list[Sentence], names: Sequence[str]) -> list[Sentence]:
        """Return the sentences of a problem in the order and the joints of this style."""
        fixed = next((i for i, s in enumerate(sentences) if not s.fixed), len(sentences))
        if fixed > 1 and rng.random() < self.shuffled:
            sentences = [*rng.sample(sentences[:fixed], fixed), *sentences[fixed:]]
        told: list[Sentence] = []
        for sentence in sentences:
            plain = not (sentence.asks or sentence.text.endswith("?") or ". " in sentence.text)
            if told and plain and told[-1].text.count(" and ") == 0 and rng.random() < self.merged:
                told[-1] = _joined(told[-1], sentence, names, rng)
            else:
                told.append(sentence)
        if told[-1].asks and rng.random() < self.asked_first:
            told = [told[-1], *told[:-1]]
        return told


PLAIN_STYLE = Style()
VARIED_STYLE = Style(words=0.3, units=0.3, merged=0.2, shuffled=0.5, asked_first=0.15)


def _joined(first: Sentence, second: Sentence, names: Sequence[str], rng: Random) -> Sentence:
    """Return two facts as one sentence."""
    joint = rng.choice((", and ", " and "))
    head = second.text.split(maxsplit=1)[0]
    keeps = head.strip(",") in names or head[0] in "$0123456789"
    text = second.text if keeps else second.text[0].lower() + second.text[1:]
    return Sentence(first.text.removesuffix(".") + joint + text, first.pronoun or second.pronoun)


def in_words(n: int) -> str:
    """Write an integer of 0 to 99 in words."""
    if n < 20:
        return ONES[n]
    ten, one = divmod(n, 10)
    return TENS[ten - 2] + (f"-{ONES[one]}" if one else "")
