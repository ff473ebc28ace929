"""The grammar of word problems: every kind of step as one declaration. A new kind is one more entry in STEPS.

A step takes a quantity of one unit and makes the next one. Its phrasings are sentences that tell it, or
questions that ask for its result and so end the problem. Slots: {Owner} {owner's pronoun as He, he} {Other}
(who owns the result of a step that `moves`), {object} {objects}, the numbers it draws by name, and
{part} (half, a third, ...) and {times} (twice, 3 times) for a number called n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from tasks.math.grammar.problem import Term

# Draws a number that suits the quantity so far, or None where none does.
Draw = Callable[[Random, Fraction], int | Fraction | None]

NOTHING, THINGS, MONEY, COST, SHARE, CHANGE, TOTAL = (
    "nothing", "things", "money", "cost", "share", "change", "total",
)  # fmt: skip
LARGEST = 2000  # no step makes more than this


@dataclass(frozen=True)
class Unit:
    """What a quantity is: how to ask for it and how the text solution states it."""

    questions: tuple[str, ...]
    statement: str


UNITS: Mapping[str, Unit] = {
    THINGS: Unit(
        (
            "How many {objects} does {Owner} have now?",
            "How many {objects} does {Owner} have?",
            "What is the number of {objects} that {Owner} has?",
        ),
        "{Owner} has {result} {objects}.",
    ),
    MONEY: Unit(
        ("How much money does {Owner} have now?", "How many dollars does {Owner} have?"),
        "{Owner} has ${result}.",
    ),
    COST: Unit(
        ("How much does {Owner} pay in all?", "What is the total price?", "How many dollars does {Owner} pay?"),
        "The price is ${result}.",
    ),
    SHARE: Unit((), "Each gets {result} {objects}."),
    CHANGE: Unit((), "The change is ${result}."),
    TOTAL: Unit((), "That makes {result} {objects}."),
}


@dataclass(frozen=True)
class Step:
    """One kind of step. `rule(story, quantity, *numbers)` computes the result, with `story.let` for a line of
    its own; the result goes to `variable`, by default a new owner's name or the variable it came from."""

    kind: str
    needs: str
    gives: str
    rule: Callable[..., Term]
    draws: Mapping[str, Draw]
    sentences: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    moves: bool = False  # the result belongs to a new owner
    empties: bool = False  # the old owner keeps nothing
    makes: tuple[str, str] | None = None  # the result counts these instead
    owners: int = 0  # at least so many must own something
    variable: str | None = None
    weight: float = 1.0  # how often it is told, against the other steps that are possible
    shows: Callable[..., Mapping[str, Fraction]] | None = None  # numbers to tell that follow from those drawn
    fits: Callable[..., bool] | None = None  # says of a story whether the step can come next


def between(low: int, high: int) -> Draw:
    """Draw any number of an inclusive range."""
    return lambda rng, x: rng.randint(low, high)


def below(rng: Random, x: Fraction) -> int | None:
    """Draw less than there is."""
    return rng.randint(2, min(int(x) - 1, 60)) if x >= 3 else None


def factor(rng: Random, x: Fraction) -> int | None:
    """Draw a factor that keeps the product within bounds."""
    return rng.randint(2, 6) if x * 6 <= LARGEST else None


def divisor(low: int, high: int) -> Draw:
    """Draw a number that divides the quantity."""

    def draw(rng: Random, x: Fraction) -> int | None:
        choices = [d for d in range(low, high + 1) if x % d == 0 and x > 0]
        return rng.choice(choices) if choices else None

    return draw


def percentage(rng: Random, x: Fraction) -> int | None:
    """Draw a percentage that comes to an integer."""
    choices = [p for p in (5, 10, 20, 25, 30, 40, 50, 60, 75, 80) if x * p % 100 == 0 and x > 0]
    return rng.choice(choices) if choices else None


def price(rng: Random, x: Fraction) -> int | Fraction | None:
    """Draw a price for each; one in ten has cents."""
    if x * 20 > LARGEST:
        return None
    return Fraction(rng.randint(2, 19), 4) if rng.random() < 0.1 else rng.randint(2, 20)


def bill(rng: Random, x: Fraction) -> int | None:
    """Draw a bill that pays the price."""
    choices = [b for b in (10, 20, 50, 100, 200, 500) if x < b]
    return rng.choice(choices[:2]) if choices else None


def percent(x: Term, n: Term) -> Term:
    """Return n percent of a quantity."""
    return x * n / Term.literal(100)


GIVEN = (
    Step(
        "given things", NOTHING, THINGS, lambda s, x, n: n, {"n": between(4, 99)}, (
            "{Owner} has {n} {objects}.",
            "There are {n} {objects} in the box of {Owner}.",
            "{Owner} starts with {n} {objects}.",
        ),
    ),
    Step(
        "given money", NOTHING, MONEY, lambda s, x, n: n, {"n": between(10, 200)}, (
            "{Owner} has ${n}.",
            "{Owner} has {n} dollars in the bank.",
        ), variable="money",
    ),
)  # fmt: skip

OPENINGS = (
    Step(
        "boxes", NOTHING, THINGS, lambda s, x, n, m: n * m, {"n": between(2, 12), "m": between(2, 24)}, (
            "{Owner} has {n} boxes of {m} {objects} each.",
            "{Owner} buys {n} packs with {m} {objects} in each pack.",
            "There are {n} shelves in the room of {Owner} with {m} {objects} on each shelf.",
        ),
    ),
    Step(
        "rate", NOTHING, THINGS, lambda s, x, n, m: n * m, {"n": between(2, 20), "m": between(2, 12)}, (
            "{Owner} collects {n} {objects} an hour for {m} hours.",
            "Every day {Owner} gets {n} {objects}, and this goes on for {m} days.",
            "{Owner} makes {n} {objects} a week and works for {m} weeks.",
        ),
    ),
    Step(
        "wages", NOTHING, MONEY, lambda s, x, n, m: n * m, {"n": between(5, 30), "m": between(2, 12)}, (
            "{Owner} earns ${n} an hour and works for {m} hours.",
            "{Owner} gets ${n} a day for {m} days of work.",
        ), variable="money",
    ),
)  # fmt: skip

STEPS = (
    *OPENINGS,
    Step(
        "gain", THINGS, THINGS, lambda s, x, n: x + n, {"n": between(2, 60)}, (
            "{He} buys {n} more {objects}.",
            "{Owner} finds {n} {objects} on the way.",
            "A friend gives {Owner} {n} more {objects}.",
            "Then {he} gets {n} {objects} as a gift.",
        ),
    ),
    Step(
        "loss", THINGS, THINGS, lambda s, x, n: x - n, {"n": below}, (
            "{He} loses {n} {objects}.",
            "{Owner} gives {n} {objects} away.",
            "Then {n} of the {objects} break.",
            "{Owner} leaves {n} of the {objects} at school.",
        ),
    ),
    Step(
        "transfer", THINGS, THINGS, lambda s, x, n: x + n, {"n": between(2, 40)}, (
            "{Owner} gives all the {objects} to {Other}, who already has {n}.",
            "{Other} has {n} {objects} and gets all the {objects} of {Owner}.",
        ), moves=True, empties=True,
    ),
    Step(
        "times", THINGS, THINGS, lambda s, x, n: x * n, {"n": factor}, (
            "{Other} has {times} as many {objects} as {Owner}.",
            "{Other} owns {n} times the number of {objects} that {Owner} has.",
            "For each of the {objects} of {Owner}, {Other} has {n}.",
        ), moves=True,
    ),
    Step(
        "fraction", THINGS, THINGS, lambda s, x, n: x / n, {"n": divisor(2, 5)}, (
            "{Other} has {part} as many {objects} as {Owner}.",
            "{Other} has only {part} of the number of {objects} that {Owner} has.",
        ), moves=True,
    ),
    Step(
        "part away", THINGS, THINGS, lambda s, x, n: x - s.let("part", x / n), {"n": divisor(2, 5)}, (
            "{He} gives {part} of the {objects} to a friend.",
            "{Owner} uses {part} of the {objects}.",
            "Then {he} loses {part} of the {objects}.",
        ),
    ),
    Step(
        "percent of", THINGS, THINGS, lambda s, x, n: percent(x, n), {"n": percentage}, (
            "{Owner} keeps only {n}% of the {objects}.",
            "Only {n}% of the {objects} are good, and {he} keeps those.",
        ),
    ),
    Step(
        "percent more", THINGS, THINGS, lambda s, x, n: x + s.let("part", percent(x, n)),
        {"n": percentage}, (
            "{Other} has {n}% more {objects} than {Owner}.",
            "The number of {objects} of {Other} is {n}% larger than that of {Owner}.",
        ), moves=True,
    ),
    Step(
        "percent less", THINGS, THINGS, lambda s, x, n: x - s.let("part", percent(x, n)),
        {"n": percentage}, (
            "{Other} has {n}% fewer {objects} than {Owner}.",
            "The number of {objects} of {Other} is {n}% smaller than that of {Owner}.",
        ), moves=True,
    ),
    Step(
        "more than", THINGS, THINGS, lambda s, x, n: x + n, {"n": between(2, 40)}, (
            "{Other} has {n} more {objects} than {Owner}.",
            "{Owner} has {n} {objects} less than {Other}.",
        ), moves=True,
    ),
    Step(
        "fewer than", THINGS, THINGS, lambda s, x, n: x - n, {"n": below}, (
            "{Other} has {n} fewer {objects} than {Owner}.",
            "{Owner} has {n} {objects} more than {Other}.",
        ), moves=True,
    ),
    Step(
        "every day", THINGS, THINGS, lambda s, x, n, m: x + s.let("more", n * m),
        {"n": between(2, 12), "m": between(2, 10)}, (
            "Then {he} gets {n} more {objects} a day for {m} days.",
            "{Owner} finds {n} more {objects} in each of the next {m} weeks.",
        ),
    ),
    Step(
        "sharing", THINGS, SHARE, lambda s, x, n: x / n, {"n": divisor(2, 9)}, questions=(
            "If {Owner} shares the {objects} equally among {n} friends, how many does each get?",
            "{Owner} puts the {objects} in {n} equal rows. How many {objects} are in each row?",
        ),
    ),
    Step(
        "packing", THINGS, THINGS, lambda s, x, n: x / n, {"n": divisor(2, 12)}, (
            "{Owner} puts the {objects} into bags of {n}.",
            "{He} packs {n} {objects} into every bag.",
        ), variable="bags", makes=("bag", "bags"),
    ),
    Step(
        "selling", THINGS, MONEY, lambda s, x, n: x * n, {"n": price}, (
            "{He} sells the {objects} for ${n} each.",
            "{Owner} sells every {object} at a price of ${n}.",
        ), variable="money",
    ),
    Step(
        "unit price", THINGS, COST, lambda s, x, n: x * n, {"n": price}, (
            "Each {object} costs ${n}.",
            "{Owner} pays ${n} for each {object}.",
            "The price of one {object} is ${n}.",
        ), variable="cost",
    ),
    Step(
        "income", MONEY, MONEY, lambda s, x, n: x + n, {"n": between(2, 90)}, (
            "{He} earns ${n} more.",
            "{Owner} gets another ${n} from an aunt.",
        ),
    ),
    Step(
        "spending", MONEY, MONEY, lambda s, x, n: x - n, {"n": below}, (
            "{He} spends ${n} on food.",
            "{Owner} pays ${n} for a ticket.",
        ),
    ),
    Step(
        "saving", MONEY, MONEY, lambda s, x, n, m: x + s.let("more", n * m),
        {"n": between(2, 20), "m": between(2, 10)}, (
            "{He} saves ${n} a week for {m} weeks.",
            "{Owner} puts ${n} aside on each of {m} days.",
        ),
    ),
    Step(
        "affording", MONEY, THINGS, lambda s, x, n: x / n, {"n": divisor(2, 20)}, (
            "{He} spends all the money on {objects} at ${n} each.",
        ), (
            "How many {objects} at ${n} each can {he} buy?",
            "One {object} costs ${n}. How many {objects} can {Owner} buy?",
        ), variable="{name}",
    ),
    Step(
        "discount", COST, COST, lambda s, x, n: x - s.let("part", percent(x, n)), {"n": percentage}, (
            "The shop takes {n}% off the price.",
            "{Owner} gets a discount of {n}%.",
        ), weight=2,
    ),
    Step(
        "delivery", COST, COST, lambda s, x, n: x + n, {"n": between(2, 15)}, (
            "The shop adds ${n} for delivery.",
            "{Owner} also pays ${n} for wrapping.",
        ),
    ),
    Step(
        "change", COST, CHANGE, lambda s, x, n: n - x, {"n": bill}, questions=(
            "{Owner} pays with ${n}. How much change does {he} get?",
            "How much change does {Owner} get from ${n}?",
        ),
    ),
    Step(
        "total", THINGS, TOTAL, lambda s, x: s.sum(), {}, questions=(
            "How many {objects} do {owners} have together?",
            "What is the total number of {objects} of {owners}?",
        ), owners=2, weight=4,
    ),
    Step(
        "difference", THINGS, TOTAL, lambda s, x: s.difference(), {}, questions=(
            "How many more {objects} does {Most} have than {Fewest}?",
            "By how many {objects} is {Most} ahead of {Fewest}?",
        ), owners=2, weight=4,
    ),
)  # fmt: skip
