"""Word problems as a pure function of (seed, index): draw a plan, then tell it as English, as code and as text.

>>> problem(0, 7) == problem(0, 7)
True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from tasks.math.problem import Problem, Term, figure
from tasks.math.steps import GIVEN, OPENINGS, STEPS, UNITS, Step
from tasks.math.words import DISTRACTORS, NAMES, PARTS, THINGS

STEP_WEIGHTS = (10, 24, 24, 18, 11, 7, 4, 2)  # of 1 to 8 steps, nearly as in GSM8K's training questions
FOLLOWED = frozenset(step.needs for step in STEPS)  # units that some step can go on from


@dataclass(frozen=True)
class Choice:
    """A step with its phrasing and numbers chosen."""

    step: Step
    phrasing: int
    numbers: tuple[Fraction, ...]

    @property
    def template(self) -> str:
        return (*self.step.sentences, *self.step.questions)[self.phrasing]


@dataclass(frozen=True)
class Distractor:
    """An idle remark and the sentence it goes before (the last sentence is the question)."""

    phrasing: int
    number: int
    place: float


@dataclass(frozen=True)
class Plan:
    """Everything that decides a problem. Names are used in order, the last one by the distractor."""

    names: tuple[tuple[str, str], ...]
    things: tuple[tuple[str, str], ...]
    choices: tuple[Choice, ...]
    question: int | None
    distractor: Distractor | None


class Story:
    """A problem while it is told: the quantity so far, who owns what, and the three texts."""

    def __init__(self, names: Sequence[tuple[str, str]], things: Sequence[tuple[str, str]]):
        self.names, self.things = names, things
        self.thing = things[0]
        self.owner = 0
        self.kind = ""
        self.unit = "nothing"
        self.quantity = Term.literal(0)
        self.owned: dict[int, Term] = {}
        self.sentences: list[str] = []
        self.opens_with_pronoun: list[bool] = []
        self.lines: list[str] = []
        self.told: list[str] = []
        self.skeleton: list[str] = []

    def let(self, name: str, term: Term) -> Term:
        """Give a part of a step a line of its own."""
        self.lines.append(f"{name} = {term.code}")
        self.told.append(f"First <<{term.digits}={figure(term.value)}>>{figure(term.value)}.")
        return Term.named(name, term)

    def sum(self) -> Term:
        first, *rest = self.owned.values()
        for term in rest:
            first = first + term
        return first

    def difference(self) -> Term:
        most, fewest = self._ranked()
        return self.owned[most] - self.owned[fewest]

    def _ranked(self) -> tuple[int, int]:
        """Return the two newest owners, the richer one first."""
        a, b = list(self.owned)[-2:]
        return (a, b) if self.owned[a].value >= self.owned[b].value else (b, a)

    def possible(self, last: bool) -> list[Step]:
        """Return the steps that can come next."""
        return [
            step
            for step in STEPS
            if step.needs == self.unit
            and len(self.owned) >= step.owners
            and (last or (step.sentences and step.gives in FOLLOWED))
            and (step.makes is None or step.makes != self.thing)
        ]

    def apply(self, choice: Choice, last: bool) -> None:
        """Tell one step; `last` names its result `result`."""
        step, numbers = choice.step, [Term.literal(n) for n in choice.numbers]
        slots = self.slots(choice)
        self.say(choice.template, slots)
        self.skeleton.append(f"{step.kind}.{choice.phrasing}")
        term = step.rule(self, self.quantity, *numbers)
        if step.empties:
            del self.owned[self.owner]
        if step.moves:
            self.owner += 1
        if step.makes:
            self.thing, self.owned = step.makes, {}
        name = "result" if last else self._variable(step)
        self.lines.append(f"{name} = {term.code}")
        if step not in GIVEN:
            self.told.append(UNITS[step.gives].statement.format_map(self._outcome(term)))
        self.kind, self.unit, self.quantity = step.kind, step.gives, Term.named(name, term)
        if self.unit == "things":
            self.owned[self.owner] = self.quantity

    def _outcome(self, term: Term) -> dict[str, str]:
        result = figure(term.value)
        objects = self.thing[term.value != 1]
        return self.slots() | {"objects": objects, "result": f"<<{term.digits}={result}>>{result}"}

    def _variable(self, step: Step) -> str:
        name = self.names[self.owner][0].lower()
        if step.variable is not None:
            return step.variable.format(name=name)
        return name if step.moves or step.needs == "nothing" else self.quantity.code

    def slots(self, choice: Choice | None = None) -> dict[str, str]:
        """Return what fills the slots of a template at this point of the story."""
        name, pronoun = self.names[self.owner]
        if any(self.names[i][1] == pronoun for i in range(self.owner)):
            pronoun = name  # a pronoun could mean somebody else
        thing, things = self.thing
        slots = {
            "Owner": name, "He": pronoun.capitalize(), "he": pronoun, "Other": self.names[self.owner + 1][0],
            "object": thing, "objects": things,
        }  # fmt: skip
        if choice is not None:
            slots |= zip(choice.step.draws, map(figure, choice.numbers), strict=True)
            if "n" in slots:
                slots["part"] = PARTS.get(choice.numbers[0], "")
                slots["times"] = "twice" if choice.numbers[0] == 2 else f"{slots['n']} times"
            if choice.step.owners:
                *others, last = [self.names[i][0] for i in self.owned]
                slots["owners"] = f"{', '.join(others)} and {last}"
                slots["Most"], slots["Fewest"] = (self.names[i][0] for i in self._ranked())
        return slots

    def say(self, template: str, slots: dict[str, str]) -> None:
        self.sentences.append(template.format_map(slots))
        self.opens_with_pronoun.append("{He}" in template or "{he}" in template)


def draw(rng: Random, steps: tuple[int, int], distractor: float) -> Plan:
    """Draw a plan with a number of steps in an inclusive range and a distractor with this probability."""
    low, high = steps
    count = rng.choices(range(low, high + 1), STEP_WEIGHTS[low - 1 : high])[0]
    names, things = tuple(rng.sample(NAMES, high + 2)), tuple(rng.sample(THINGS, 2))
    story, choices = Story(names, things), []
    opening = rng.choice((GIVEN, OPENINGS))
    total = count + (opening is GIVEN)
    for i in range(total):
        last = i == total - 1
        choices.append(_choose(rng, story, story.possible(last) if i else opening, last))
        story.apply(choices[-1], last)
    step, phrasing = choices[-1].step, choices[-1].phrasing
    question = rng.randrange(len(UNITS[step.gives].questions)) if phrasing < len(step.sentences) else None
    remark = None
    if rng.random() < distractor:
        remark = Distractor(rng.randrange(len(DISTRACTORS)), rng.randint(2, 60), rng.random())
    return Plan(names, things, tuple(choices), question, remark)


def _choose(rng: Random, story: Story, options: Sequence[Step], last: bool) -> Choice:
    """Draw a step, rather not the same kind again, with its phrasing and numbers that suit the story."""
    ranks = {step.kind: (step.kind == story.kind, -(rng.random() ** (1 / step.weight))) for step in options}
    for step in sorted(options, key=lambda step: ranks[step.kind]):
        numbers = [draw(rng, story.quantity.value) for draw in step.draws.values()]
        if None not in numbers:
            phrasings = len(step.sentences) + (len(step.questions) if last else 0)
            return Choice(step, rng.randrange(phrasings), tuple(Fraction(n) for n in numbers))
    raise AssertionError(f"no step goes on from {figure(story.quantity.value)} {story.unit}")


def tell(plan: Plan) -> Problem:
    """Write a plan out as question, program and text."""
    story = Story(plan.names, plan.things)
    for choice in plan.choices:
        story.apply(choice, choice is plan.choices[-1])
    if plan.question is not None:
        story.say(UNITS[story.unit].questions[plan.question], story.slots())
        story.skeleton.append(f"?{plan.question}")
    remark = _remark(plan, story) if plan.distractor else ""
    body = "".join(f"    {line}\n" for line in story.lines)
    answer = story.quantity.value
    return Problem(
        question=" ".join(story.sentences),
        code=f"def solve():\n{body}    return result",
        text="\n".join([*story.told, f"#### {figure(answer)}"]),
        answer=answer,
        kinds=tuple(choice.step.kind for choice in plan.choices if choice.step not in GIVEN),
        skeleton=" ".join(story.skeleton),
        distractor=remark,
    )


def _remark(plan: Plan, story: Story) -> str:
    """Put the distractor where no pronoun follows it, and return it."""
    places = [i for i, pronoun in enumerate(story.opens_with_pronoun) if i and not pronoun]
    if not places:
        return ""
    (extra, extras), (_, things) = plan.things[1], plan.things[0]
    remark = DISTRACTORS[plan.distractor.phrasing].format(
        Owner=plan.names[0][0], Other=plan.names[-1][0], n=plan.distractor.number,
        extra=extra, extras=extras, objects=things,
    )  # fmt: skip
    story.sentences.insert(places[int(plan.distractor.place * len(places))], remark)
    return remark


def problem(seed: int, index: int, *, steps: tuple[int, int] = (1, 4), distractor: float = 0.3) -> Problem:
    """Return one problem, the same on every machine for the same arguments."""
    return tell(draw(Random(f"{seed}:{index}"), steps, distractor))
