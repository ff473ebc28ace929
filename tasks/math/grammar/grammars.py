"""Which steps, phrasings, names and things a problem may be made of: a small grammar and the whole one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from random import Random

from tasks.math.grammar import more_openings, more_steps, steps, words
from tasks.math.grammar.phrasings import MORE, MORE_UNITS
from tasks.math.grammar.steps import Step, Unit
from tasks.math.grammar.style import PLAIN_STYLE, VARIED_STYLE, Style

Thing = tuple[str, str]


@dataclass(frozen=True)
class Grammar:
    """Problems open with one of `given` (no step yet) or of `openings`, and go on with `steps`.

    `idle` are the ranges of numbers in distractors; with several themes half of them are about another theme.
    """

    given: tuple[Step, ...]
    openings: tuple[Step, ...]
    steps: tuple[Step, ...]  # openings included
    units: Mapping[str, Unit]
    names: tuple[tuple[str, str], ...]
    themes: Mapping[str, tuple[Thing, ...]]
    distractors: tuple[str, ...]
    idle: tuple[tuple[int, int], ...] = ((2, 60),)
    style: Style = PLAIN_STYLE

    @cached_property
    def followed(self) -> frozenset[str]:
        """The units that some step can go on from."""
        return frozenset(step.needs for step in self.steps)

    def draw_things(self, rng: Random) -> tuple[str, tuple[Thing, Thing]]:
        """Draw a theme, an object of it, and another one for distractors."""
        if len(self.themes) == 1:
            ((theme, things),) = self.themes.items()
            thing, extra = rng.sample(things, 2)
            return theme, (thing, extra)
        theme = rng.choice(list(self.themes))
        other = rng.choice([t for t in self.themes if t not in words.HELD_OUT_THEMES])
        thing, extra = rng.sample(self.themes[theme], 2)
        off_topic = rng.choice([t for t in self.themes[other] if t != thing])
        # Objects of a held-out theme stay out of all other problems.
        return theme, (thing, extra if rng.random() < 0.5 else off_topic)

    def draw_idle(self, rng: Random) -> int:
        """Draw the number of a distractor."""
        low, high = self.idle[0] if len(self.idle) == 1 else rng.choice(self.idle)
        return rng.randint(low, high)


def _richer(step: Step) -> Step:
    sentences, questions = MORE.get(step.kind, ((), ()))
    return replace(step, sentences=step.sentences + sentences, questions=step.questions + questions)


@cache
def grammar_of(name: str) -> Grammar:
    """Return the grammar of a name in GRAMMARS."""
    small = Grammar(
        steps.GIVEN,
        steps.OPENINGS,
        steps.STEPS,
        steps.UNITS,
        words.NAMES,
        {"everyday": words.THINGS},
        words.DISTRACTORS,
    )
    if name == "small":
        return small
    openings = (*map(_richer, small.openings), *more_openings.OPENINGS)
    return Grammar(
        given=(*map(_richer, small.given), *more_openings.GIVEN),
        openings=openings,
        steps=(*openings, *(_richer(s) for s in small.steps if s not in small.openings), *more_steps.STEPS),
        units={name: replace(u, questions=u.questions + MORE_UNITS.get(name, ())) for name, u in small.units.items()}
        | more_openings.UNITS,
        names=words.MANY_NAMES,
        themes=words.themes(),
        distractors=words.MORE_DISTRACTORS,
        idle=((2, 60), (2, 60), (100, 5000)),
        style=VARIED_STYLE,
    )


GRAMMARS = ("small", "full")
