"""How problems of the whole grammar open: with time, distance, length, area, weight, age, or a count in other words."""

from __future__ import annotations

from tasks.math.grammar.problem import Term
from tasks.math.grammar.steps import NOTHING, THINGS, TOTAL, Step, Unit, between

MINUTES, MILES, CENTIMETRES, GRAMS, AREA, AGE, FENCE, FIGURE = (
    "minutes", "miles", "centimetres", "grams", "area", "age", "fence", "figure",
)  # fmt: skip
number = Term.literal

UNITS = {
    MINUTES: Unit(
        (
            "How many minutes is that in all?",
            "How many minutes does {Owner} spend on it?",
            "What is the time in minutes?",
        ),
        "That takes {result} minutes.",
    ),
    MILES: Unit(
        ("How many miles does {Owner} travel?", "How long is the whole way in miles?", "How many miles is that?"),
        "The way is {result} miles long.",
    ),
    CENTIMETRES: Unit(
        (
            "How many centimetres long is it now?",
            "What is its length in centimetres?",
            "How many centimetres does {Owner} have?",
        ),
        "It is {result} centimetres long.",
    ),
    GRAMS: Unit(
        (
            "How many grams of flour does {Owner} have?",
            "What is the weight of the flour in grams?",
            "How many grams of flour are there?",
        ),
        "The flour weighs {result} grams.",
    ),
    AREA: Unit(
        ("How many square metres is that?", "What is the area in square metres?", "How large is it in square metres?"),
        "The area is {result} square metres.",
    ),
    AGE: Unit(
        ("How old is {Owner}?", "What is the age of {Owner}?", "How many years old is {Owner}?"),
        "{Owner} is {result} years old.",
    ),
    FENCE: Unit(
        ("How many metres of fence does {Owner} need?", "How long is the fence in metres?"),
        "The fence is {result} metres long.",
    ),
    FIGURE: Unit((), "The answer is {result}."),
}

GIVEN = (
    Step(
        "given age", NOTHING, AGE, lambda s, x, n: n, {"n": between(5, 40)}, (
            "{Owner} is {n} years old.", "{Owner} turned {n} today.", "The age of {Owner} is {n}.",
            "{Owner} was born {n} years ago.", "Last week {Owner} turned {n}.", "This year {Owner} turns {n}.",
        ),
    ),
    Step(
        "given distance", NOTHING, MILES, lambda s, x, n: n, {"n": between(4, 120)}, (
            "{Owner} lives {n} miles from the lake and drives there.", "{Owner} sets out on a trip of {n} miles.",
            "From home {Owner} rides {n} miles to a farm.", "{Owner} drives {n} miles to see a friend.",
            "The bus of {Owner} goes {n} miles to the coast.", "On Monday {Owner} travels {n} miles.",
        ), variable="miles",
    ),
    Step(
        "given length", NOTHING, CENTIMETRES, lambda s, x, n: n, {"n": between(20, 400)}, (
            "{Owner} has a rope of {n} centimetres.", "{Owner} buys a ribbon that is {n} centimetres long.",
            "The wire of {Owner} is {n} centimetres long.", "A plank of {Owner} measures {n} centimetres.",
            "{Owner} finds a string of {n} centimetres.", "There is a pipe of {n} centimetres in the shed of {Owner}.",
        ), variable="length",
    ),
)  # fmt: skip

OPENINGS = (
    Step(
        "dozens", NOTHING, THINGS, lambda s, x, n: n * number(12), {"n": between(2, 15)}, (
            "{Owner} buys {n} dozen {objects}.", "{Owner} has {n} dozen {objects}.",
            "A shop sends {n} dozen {objects} to {Owner}.", "{Owner} orders {n} dozen {objects}.",
            "There are {n} dozen {objects} in the bag of {Owner}.", "{Owner} starts with {n} dozen {objects}.",
        ),
    ),
    Step(
        "ratio", NOTHING, THINGS, lambda s, x, n, m, k: s.let("part", number((n + m).value * k.value) / (n + m)) * m,
        {"n": between(2, 7), "m": between(2, 7), "k": between(2, 15)}, (
            "{Owner} and {Other} share {all} {objects} in the ratio {n} to {m}.",
            "{all} {objects} are split between {Owner} and {Other} in the ratio {n} to {m}.",
            "A box of {all} {objects} is shared by {Owner} and {Other} in the ratio {n} to {m}.",
            "{Owner} gets {n} of the {objects} for every {m} that {Other} gets, and there are {all} of them.",
            "For every {n} {objects} of {Owner}, {Other} has {m}, and together they have {all}.",
            "The {all} {objects} go to {Owner} and {Other} in the ratio {n} to {m}.",
        ), moves=True, shows=lambda n, m, k: {"all": (n + m) * k},
    ),
    Step(
        "together", NOTHING, TOTAL, lambda s, x, n, m, k: s.let("both", n + m) * k,
        {"n": between(2, 30), "m": between(2, 30), "k": between(2, 9)}, questions=(
            "{Owner} makes {n} {objects} an hour and {Other} makes {m}. How many do they make in {k} hours?",
            "{Owner} can paint {n} {objects} a day, {Other} can paint {m}. How many do both paint in {k} days?",
            "One machine makes {n} {objects} a minute, another makes {m}. How many do both make in {k} minutes?",
            "{Owner} packs {n} {objects} an hour, {Other} packs {m}. How many {objects} do they pack in {k} hours?",
            "{Owner} washes {n} {objects} a day and {Other} {m}. How many {objects} are washed after {k} days?",
            "Every week {Owner} repairs {n} {objects} and {Other} {m}. How many do they repair in {k} weeks?",
        ),
    ),
    Step(
        "before", NOTHING, TOTAL, lambda s, x, n, m: n + m, {"n": between(3, 90), "m": between(3, 60)}, questions=(
            "After {Owner} gave {m} {objects} away, {n} were left. How many {objects} were there at first?",
            "{Owner} has {n} {objects} left after losing {m}. How many did {he} have before?",
            "{Owner} sold {m} {objects} and still has {n}. How many {objects} did {he} start with?",
            "Now that {m} {objects} are broken, {Owner} has {n}. How many did {he} have in the beginning?",
            "{Owner} used {m} of the {objects} and {n} remain. How many were there?",
            "{n} {objects} are left to {Owner}, who lent {m} to a friend. How many did {he} own before that?",
        ),
    ),
    Step(
        "before the gain", NOTHING, TOTAL, lambda s, x, n, m: n - m, {"n": between(40, 120), "m": between(3, 38)},
        questions=(
            "{Owner} has {n} {objects} after buying {m}. How many {objects} did {he} have before?",
            "With the {m} {objects} from a friend {Owner} now has {n}. How many were there before?",
            "{Owner} found {m} {objects} and has {n} now. How many did {he} have at first?",
            "Since {he} won {m} {objects}, {Owner} has {n}. How many {objects} did {he} have before that?",
            "{Owner} got {m} {objects} as a gift, which makes {n}. How many did {he} own before?",
            "Today {Owner} has {n} {objects}, {m} more than yesterday. How many did {he} have yesterday?",
        ),
    ),
    Step(
        "hours", NOTHING, MINUTES, lambda s, x, n: n * number(60), {"n": between(2, 12)}, (
            "{Owner} works for {n} hours.", "{Owner} reads for {n} hours.", "{Owner} practises for {n} hours.",
            "{Owner} spends {n} hours in the garden.", "A game of {Owner} lasts {n} hours.",
            "{Owner} needs {n} hours to clean the house.",
        ), variable="minutes",
    ),
    Step(
        "sessions", NOTHING, MINUTES, lambda s, x, n, m: n * m, {"n": between(5, 50), "m": between(2, 12)}, (
            "{Owner} runs for {n} minutes on each of {m} days.", "{Owner} has {m} lessons of {n} minutes.",
            "{Owner} plays {m} games of {n} minutes each.", "Every day for {m} days {Owner} swims for {n} minutes.",
            "{Owner} watches {m} films that take {n} minutes each.",
            "In {m} breaks of {n} minutes {Owner} learns words.",
        ), variable="minutes",
    ),
    Step(
        "speed", NOTHING, MILES, lambda s, x, n, m: n * m, {"n": between(3, 70), "m": between(2, 9)}, (
            "{Owner} drives at {n} miles an hour for {m} hours.", "{Owner} travels {n} miles a day for {m} days.",
            "For {m} hours {Owner} rides at a speed of {n} miles an hour.",
            "The train of {Owner} goes {n} miles in each of {m} hours.", "{Owner} sails {n} miles a day on {m} days.",
            "On {m} days {Owner} walks and drives {n} miles each.",
        ), variable="miles",
    ),
    Step(
        "metres", NOTHING, CENTIMETRES, lambda s, x, n: n * number(100), {"n": between(2, 15)}, (
            "{Owner} has a rope of {n} metres.", "{Owner} buys {n} metres of ribbon.",
            "The wire of {Owner} is {n} metres long.", "{Owner} finds a string of {n} metres.",
            "There is a pipe of {n} metres in the yard of {Owner}.", "A plank of {Owner} measures {n} metres.",
        ), variable="length",
    ),
    Step(
        "kilograms", NOTHING, GRAMS, lambda s, x, n: n * number(1000), {"n": between(2, 9)}, (
            "{Owner} buys {n} kilograms of flour.", "{Owner} has {n} kilograms of flour.",
            "There are {n} kilograms of flour in the kitchen of {Owner}.",
            "{Owner} fills a jar with {n} kilograms of flour.",
            "A bag of flour of {n} kilograms belongs to {Owner}.", "{Owner} brings home {n} kilograms of flour.",
        ), variable="grams",
    ),
    Step(
        "area", NOTHING, AREA, lambda s, x, n, m: n * m, {"n": between(3, 30), "m": between(2, 20)}, (
            "{Owner} has a garden of {n} by {m} metres.",
            "The floor of {Owner} is {n} metres long and {m} metres wide.",
            "{Owner} buys a field of {n} metres by {m} metres.", "A yard of {n} by {m} metres belongs to {Owner}.",
            "{Owner} paints a wall of {n} by {m} metres.", "The room of {Owner} measures {n} by {m} metres.",
        ), variable="area",
    ),
    Step(
        "perimeter", NOTHING, FENCE, lambda s, x, n, m: s.let("sides", n + m) * number(2),
        {"n": between(3, 60), "m": between(2, 40)}, (
            "{Owner} builds a fence around a garden of {n} by {m} metres.",
            "Around a field of {n} by {m} metres {Owner} puts a fence.",
            "{Owner} wants a fence all around a yard that is {n} metres long and {m} metres wide.",
            "A pool of {n} by {m} metres gets a fence from {Owner}.",
            "{Owner} fences a meadow of {n} metres by {m} metres.",
            "The fence of {Owner} goes around a court of {n} by {m} metres.",
        ), variable="fence",
    ),
)  # fmt: skip
