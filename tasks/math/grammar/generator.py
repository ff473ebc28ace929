"""Word problems as a pure function of (seed, index): draw a plan, then tell it as English, as code and as text.

>>> problem(0, 7) == problem(0, 7)
True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from tasks.math.grammar.grammars import Grammar, grammar_of
from tasks.math.grammar.problem import Problem, Term, figure
from tasks.math.grammar.steps import NOTHING, Step
from tasks.math.grammar.style import PLAIN_STYLE, Sentence
from tasks.math.grammar.words import PARTS

STEP_WEIGHTS = (10, 24, 24, 18, 11, 7, 4, 2)  # of 1 to 8 steps, nearly as in GSM8K's training questions
HIM = {"he": "him", "she": "her"}


@dataclass(frozen=True)
class Choice:
    """A step with its phrasing and numbers chosen."""

    step: Step
    phrasing: int
    numbers: tuple[Fraction, ...]

    @property
    def template(self) -> str:
        return (*self.step.sentences, *self.step.questions)[self.phrasing]

    def figures(self) -> dict[str, Fraction]:
        """Return the numbers of the template by name."""
        drawn = dict(zip(self.step.draws, self.numbers, strict=True))
        return drawn if self.step.shows is None else drawn | self.step.shows(*self.numbers)


@dataclass(frozen=True)
class Distractor:
    """An idle remark and the sentence it goes before (the last sentence is the question)."""

    phrasing: int
    number: int
    place: float


@dataclass(frozen=True)
class Plan:
    """Everything that decides a problem. Names are used in order, the last one by the distractor; `wording` is the
    seed of how it is worded."""

    grammar: Grammar
    names: tuple[tuple[str, str], ...]
    theme: str
    things: tuple[tuple[str, str], ...]
    choices: tuple[Choice, ...]
    question: int | None
    wording: int
    distractor: Distractor | None


class Story:
    """A problem while it is told: the quantity so far, who owns what, and the three texts."""

    def __init__(
        self, grammar: Grammar, names: Sequence[tuple[str, str]], things: Sequence[tuple[str, str]], wording: int
    ):
        self.grammar, self.names, self.things = grammar, names, things
        self.rng = Random(wording)
        self.thing = things[0]
        self.owner = 0
        self.kind = ""
        self.unit = NOTHING
        self.quantity = Term.literal(0)
        self.owned: dict[int, Term] = {}
        self.sentences: list[Sentence] = []
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

    def possible(self, last: bool, steps: Sequence[Step]) -> list[Step]:
        """Return those of the steps that can come next."""
        return [
            step
            for step in steps
            if step.needs == self.unit
            and len(self.owned) >= step.owners
            and (last or (step.sentences and step.gives in self.grammar.followed))
            and (step.makes is None or step.makes != self.thing)
            and (step.fits is None or step.fits(self))
        ]

    def apply(self, choice: Choice, last: bool) -> None:
        """Tell one step; `last` names its result `result`."""
        step, numbers = choice.step, [Term.literal(n) for n in choice.numbers]
        holds = step.needs == NOTHING or (step.moves and not step.empties)
        self.say(choice.template, self.slots(choice), holds=holds)
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
        if step not in self.grammar.given:
            self.told.append(self.grammar.units[step.gives].statement.format_map(self._outcome(term)))
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
        return name if step.moves or step.needs == NOTHING else self.quantity.code

    def slots(self, choice: Choice | None = None) -> dict[str, str]:
        """Return what fills the slots of a template at this point of the story."""
        name, pronoun = self.names[self.owner]
        if any(self.names[i][1] == pronoun for i in range(self.owner)):
            pronoun = name  # a pronoun could mean somebody else
        thing, things = self.thing
        slots = {
            "Owner": name, "He": pronoun.capitalize(), "he": pronoun, "him": HIM.get(pronoun, pronoun),
            "Other": self.names[self.owner + 1][0], "object": thing, "objects": things,
        }  # fmt: skip
        if choice is not None:
            slots |= {name: figure(value) for name, value in choice.figures().items()}
            if "n" in slots:
                slots["part"] = PARTS.get(choice.numbers[0], "")
                slots["times"] = "twice" if choice.numbers[0] == 2 else f"{slots['n']} times"
            if choice.step.owners:
                *others, last = [self.names[i][0] for i in self.owned]
                slots["owners"] = f"{', '.join(others)} and {last}"
                slots["Most"], slots["Fewest"] = (self.names[i][0] for i in self._ranked())
        return slots

    def say(self, template: str, slots: dict[str, str], *, holds: bool = False, asks: bool = False) -> None:
        """Tell a sentence; `holds` says that it is true whenever it is told, `asks` that it is a unit's question."""
        style, pronoun = self.grammar.style, any(slot in template for slot in ("{He}", "{he}", "{him}"))
        template = style.template(self.rng, template)
        text = template.format_map(style.slots(self.rng, template, slots))
        fixed = holds and not pronoun and not text.startswith("Then ")
        self.sentences.append(Sentence(text[0].upper() + text[1:], pronoun, fixed, asks))


def draw(rng: Random, steps: tuple[int, int], distractor: float, grammar: Grammar) -> Plan:
    """Draw a plan with a number of steps in an inclusive range and a distractor with this probability."""
    low, high = steps
    count = rng.choices(range(low, high + 1), STEP_WEIGHTS[low - 1 : high])[0]
    names = tuple(rng.sample(grammar.names, high + 2))
    theme, things = grammar.draw_things(rng)
    story, choices = Story(grammar, names, things, 0), []
    opening = rng.choice((grammar.given, grammar.openings))
    total = count + (opening is grammar.given)
    for i in range(total):
        last = i == total - 1
        options = story.possible(last, grammar.steps if i else opening)
        choices.append(_choose(rng, story, options, last))
        story.apply(choices[-1], last)
    step, phrasing = choices[-1].step, choices[-1].phrasing
    question = rng.randrange(len(grammar.units[step.gives].questions)) if phrasing < len(step.sentences) else None
    wording = 0 if grammar.style == PLAIN_STYLE else rng.getrandbits(64)
    remark = None
    if rng.random() < distractor:
        remark = Distractor(rng.randrange(len(grammar.distractors)), grammar.draw_idle(rng), rng.random())
    return Plan(grammar, names, theme, things, tuple(choices), question, wording, remark)


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
    story = Story(plan.grammar, plan.names, plan.things, plan.wording)
    for choice in plan.choices:
        story.apply(choice, choice is plan.choices[-1])
    if plan.question is not None:
        story.say(plan.grammar.units[story.unit].questions[plan.question], story.slots(), asks=True)
        story.skeleton.append(f"?{plan.question}")
    names = [name for name, _ in plan.names]
    sentences = plan.grammar.style.arrange(story.rng, story.sentences, names)
    remark = _remark(plan, sentences) if plan.distractor else ""
    question = " ".join(sentence.text for sentence in sentences)
    themed = [word for thing in plan.things if thing in plan.grammar.themes[plan.theme] for word in thing]
    body = "".join(f"    {line}\n" for line in story.lines)
    answer = story.quantity.value
    return Problem(
        question=question,
        code=f"def solve():\n{body}    return result",
        text="\n".join([*story.told, f"#### {figure(answer)}"]),
        answer=answer,
        kinds=tuple(choice.step.kind for choice in plan.choices if choice.step not in plan.grammar.given),
        skeleton=" ".join(story.skeleton),
        theme=plan.theme if any(word in question for word in themed) else "",
        distractor=remark,
    )


def _remark(plan: Plan, sentences: list[Sentence]) -> str:
    """Put the distractor where no pronoun follows it, and return it."""
    places = [i for i, sentence in enumerate(sentences) if i and not sentence.pronoun]
    if not places:
        return ""
    (extra, extras), (_, things) = plan.things[1], plan.things[0]
    remark = plan.grammar.distractors[plan.distractor.phrasing].format(
        Owner=plan.names[0][0], Other=plan.names[-1][0], n=plan.distractor.number,
        extra=extra, extras=extras, objects=things,
    )  # fmt: skip
    sentences.insert(places[int(plan.distractor.place * len(places))], Sentence(remark))
    return remark


def problem(
    seed: int, index: int, *, steps: tuple[int, int] = (1, 4), distractor: float = 0.3, grammar: str = "small"
) -> Problem:
    """Return one problem, the same on every machine for the same arguments."""
    return tell(draw(Random(f"{seed}:{index}"), steps, distractor, grammar_of(grammar)))
