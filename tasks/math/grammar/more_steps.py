"""How problems of the whole grammar go on: time, distance, length, area, weight, age, more ways to count and to pay."""

from __future__ import annotations

from fractions import Fraction
from random import Random

from tasks.math.grammar.more_openings import AGE, AREA, CENTIMETRES, FENCE, FIGURE, GRAMS, MILES, MINUTES
from tasks.math.grammar.problem import Term
from tasks.math.grammar.steps import (
    COST,
    LARGEST,
    MONEY,
    THINGS,
    Step,
    below,
    between,
    divisor,
    factor,
    percent,
    percentage,
    price,
)

number = Term.literal


def remainder(rng: Random, x: Fraction) -> int | None:
    """Draw a number that does not divide the quantity and is less than it."""
    choices = [d for d in range(3, 13) if d < x and x % d]
    return rng.choice(choices) if choices else None


def doublings(rng: Random, x: Fraction) -> int | None:
    """Draw how often the quantity doubles."""
    choices = [n for n in (2, 3, 4) if x * 2**n <= LARGEST]
    return rng.choice(choices) if choices else None


def lifetimes(rng: Random, x: Fraction) -> int | None:
    """Draw how many times as old somebody is."""
    choices = [n for n in (2, 3, 4) if x * n <= 96]
    return rng.choice(choices) if choices else None


def halves(story) -> bool:
    """Say whether a time in minutes is a number of half hours."""
    return story.quantity.value % 30 == 0


def even_mean(story) -> bool:
    """Say whether the mean over at least three owners is an integer."""
    return len(story.owned) >= 3 and story.sum().value % len(story.owned) == 0


STEPS = (
    Step(
        "doubling", THINGS, THINGS, lambda s, x, n: x * number(2) ** n, {"n": doublings}, (
            "The number of {objects} doubles every day for {n} days.", "It doubles {n} times.",
            "In each of {n} weeks the number of {objects} doubles.", "{Owner} doubles the {objects} {n} times.",
            "Then the number doubles on {n} days in a row.", "For {n} months {he} doubles what {he} has every month.",
        ),
    ),
    Step(
        "leftover", THINGS, FIGURE, lambda s, x, n: x % n, {"n": remainder}, questions=(
            "{Owner} packs {n} {objects} into every box. How many {objects} are left over?",
            "If {he} makes groups of {n}, how many {objects} remain?",
            "How many {objects} are left when {Owner} fills as many bags of {n} as possible?",
            "The {objects} are put in rows of {n}. How many do not fill a row?",
            "{Owner} deals the {objects} to {n} friends as evenly as can be. How many are left over?",
            "Each shelf takes exactly {n} {objects}. How many are left after all full shelves?",
        ), weight=2,
    ),
    Step(
        "containers", THINGS, FIGURE, lambda s, x, n: (x / n).ceil(), {"n": remainder}, questions=(
            "A box holds {n} {objects}. How many boxes does {Owner} need for all?",
            "How many bags of at most {n} {objects} does {Owner} need?",
            "A shelf has room for {n} {objects}. How many shelves are needed?",
            "If a tray carries up to {n} {objects}, how many trays does {Owner} need?",
            "A car can take {n} {objects} at a time. How many trips does it take?",
            "At most {n} {objects} fit into a drawer. How many drawers must {Owner} have?",
        ), weight=2,
    ),
    Step(
        "mean", THINGS, FIGURE, lambda s, x: s.let("total", s.sum()) / number(len(s.owned)), {}, questions=(
            "How many {objects} do {owners} have on average?", "What is the average number of {objects} of {owners}?",
            "On average, how many {objects} does each of {owners} have?", "What is the mean of what {owners} have?",
            "{owners} take the average of their {objects}. What is it?",
            "If {owners} shared all evenly, how many {objects} would each have?",
        ), owners=3, weight=20, fits=even_mean,
    ),
    Step(
        "goal", THINGS, FIGURE, lambda s, x, n: n - x, {"n": lambda rng, x: int(x) + rng.randint(2, 60)}, questions=(
            "{Owner} wants to have {n} {objects}. How many are missing?", "How many more does {he} need to have {n}?",
            "The goal is {n} {objects}. How many more does {Owner} need?",
            "An album takes {n} {objects}. How many places are still empty?",
            "How many {objects} must {Owner} still find to reach {n}?",
            "{Owner} needs {n} {objects} for a class. How many are lacking?",
        ),
    ),
    Step(
        "longer", MINUTES, MINUTES, lambda s, x, n: x + n, {"n": between(5, 90)}, (
            "Then {he} goes on for {n} more minutes.", "{Owner} adds another {n} minutes.",
            "A break takes {n} minutes more.",
            "{He} spends {n} minutes on the way as well.", "It takes {n} minutes longer because of rain.",
            "Another {n} minutes go into clearing up.",
        ),
    ),
    Step(
        "shorter", MINUTES, MINUTES, lambda s, x, n: x - n, {"n": below}, (
            "{He} saves {n} minutes of this with a friend's help.", "{Owner} cuts this by {n} minutes.",
            "A better plan makes it {n} minutes shorter.", "It is over {n} minutes early.",
            "{He} leaves {n} minutes before the end.", "In truth {Owner} takes {n} minutes less.",
        ),
    ),
    Step(
        "days of work", MINUTES, MINUTES, lambda s, x, n: x * n, {"n": factor}, (
            "{He} does so in each of {n} weeks.", "{Owner} repeats all of it {n} times in all.",
            "This happens in every one of {n} months.", "{He} does the whole of it {n} times.",
            "There are {n} rounds of this.", "{Owner} keeps this up for {n} weeks, each of them alike.",
        ),
    ),
    Step(
        "in hours", MINUTES, FIGURE, lambda s, x: x / number(60), {}, questions=(
            "How many hours is that?", "How long is this in hours?", "How many hours does {Owner} spend on it?",
            "What is the time in hours?", "For how many hours is {Owner} busy?", "How many hours does it all take?",
        ), fits=halves, weight=3,
    ),
    Step(
        "pace", MINUTES, THINGS, lambda s, x, n: x / n, {"n": divisor(2, 30)}, (
            "In this time {he} makes one {object} every {n} minutes.", "Each {object} takes {him} {n} minutes to make.",
            "{Owner} finishes a {object} every {n} minutes.", "One {object} is ready every {n} minutes.",
            "Every {n} minutes {Owner} gets a {object}.", "It takes {n} minutes to clean a {object}.",
        ), variable="{name}",
    ),
    Step(
        "farther", MILES, MILES, lambda s, x, n: x + n, {"n": between(2, 80)}, (
            "Then {he} goes {n} miles farther.", "{Owner} adds a detour of {n} miles.",
            "After that come {n} more miles.",
            "The next day {he} covers {n} miles.", "From there it is {n} miles to the hotel, and {he} goes there.",
            "{Owner} rides {n} miles on top of that.",
        ),
    ),
    Step(
        "and back", MILES, MILES, lambda s, x: x * number(2), {}, (
            "Then {he} goes the same way back.", "{Owner} returns by the same road.", "The way back is as long.",
            "{He} goes there and back.", "At the end {Owner} takes the whole way once more.",
            "{He} then does it all again.",
        ), weight=0.5,
    ),
    Step(
        "fuel", MILES, FIGURE, lambda s, x, n: x / n, {"n": divisor(5, 40)}, questions=(
            "The car needs a gallon for every {n} miles. How many gallons does it need?",
            "At {n} miles to the gallon, how many gallons are used?",
            "One gallon lasts for {n} miles. How many gallons does {Owner} need?",
            "{Owner} stops every {n} miles. How many parts does the way have?",
            "If the car goes {n} miles on a gallon, how much fuel in gallons does it burn?",
            "How many gallons does a car that makes {n} miles a gallon need for it?",
        ),
    ),
    Step(
        "travel time", MILES, FIGURE, lambda s, x, n: x / n, {"n": divisor(2, 60)}, questions=(
            "At {n} miles an hour, how many hours does it take?", "How many hours is that at {n} miles an hour?",
            "A bus makes {n} miles an hour. How many hours does it need for the same way?",
            "{Owner} can do {n} miles a day. How many days does it take?",
            "How many hours would it take at a speed of {n} miles an hour?",
            "If {he} covers {n} miles an hour, how many hours is {Owner} under way?",
        ),
    ),
    Step(
        "fare", MILES, COST, lambda s, x, n: x * n, {"n": price}, (
            "Each mile costs ${n}.", "A driver asks ${n} a mile.", "The fare is ${n} for every mile.",
            "{Owner} pays ${n} a mile.", "Fuel and toll come to ${n} a mile.", "The price is ${n} for each mile.",
        ), variable="cost",
    ),
    Step(
        "cutting", CENTIMETRES, CENTIMETRES, lambda s, x, n: x - n, {"n": below}, (
            "{He} cuts off {n} centimetres.", "A piece of {n} centimetres breaks off.",
            "{Owner} removes {n} centimetres.",
            "Then {n} centimetres are used for a knot.", "{Owner} gives {n} centimetres of it to a friend.",
            "{He} burns {n} centimetres of it.",
        ),
    ),
    Step(
        "joining", CENTIMETRES, CENTIMETRES, lambda s, x, n: x + n, {"n": between(5, 90)}, (
            "{He} ties another {n} centimetres to it.", "{Owner} makes it {n} centimetres longer.",
            "Then {he} adds a piece of {n} centimetres.", "A friend has {n} centimetres more of it to add.",
            "{Owner} glues a part of {n} centimetres to it.", "{He} buys {n} centimetres more and joins them.",
        ),
    ),
    Step(
        "pieces", CENTIMETRES, THINGS, lambda s, x, n: x / n, {"n": divisor(2, 50)}, (
            "{He} cuts it into pieces of {n} centimetres.", "{Owner} makes pieces of {n} centimetres out of it.",
            "All of it is cut into pieces of {n} centimetres.",
            "{He} divides it into pieces that are {n} centimetres long.",
            "It becomes pieces of {n} centimetres each.", "Every piece that {Owner} cuts from it has {n} centimetres.",
        ), variable="pieces", makes=("piece", "pieces"),
    ),
    Step(
        "flour used", GRAMS, GRAMS, lambda s, x, n: x - n, {"n": below}, (
            "{He} uses {n} grams.", "{Owner} spills {n} grams of it.", "A neighbour borrows {n} grams.",
            "Then {n} grams go into a sauce.", "{Owner} puts {n} grams aside.", "{He} gives {n} grams of it away.",
        ),
    ),
    Step(
        "baking", GRAMS, THINGS, lambda s, x, n: x / n, {"n": divisor(20, 500)}, (
            "{He} bakes loaves of {n} grams of flour each.", "Every loaf takes {n} grams.",
            "{Owner} makes as many loaves of {n} grams as there is flour for.", "One loaf needs {n} grams of flour.",
            "{He} uses it all for loaves with {n} grams in each.",
            "With {n} grams a loaf {Owner} bakes until it is gone.",
        ), variable="loaves", makes=("loaf", "loaves"),
    ),
    Step(
        "planting", AREA, THINGS, lambda s, x, n: x * n, {"n": factor}, (
            "{He} lays {n} {objects} on every square metre.",
            "There is room for {n} {objects} on each square metre, all of it used.",
            "{Owner} puts {n} {objects} on each square metre.", "Every square metre gets {n} {objects}.",
            "On one square metre there are {n} {objects}.", "For each square metre {he} has {n} {objects}.",
        ), variable="{name}",
    ),
    Step(
        "area taken", AREA, AREA, lambda s, x, n: x - n, {"n": below}, (
            "A shed takes {n} square metres of it.", "{He} leaves {n} square metres of it out.",
            "Of this, {n} square metres are stone.", "{Owner} sells {n} square metres of it.",
            "Then {n} square metres are under water.", "{n} square metres of it belong to a path.",
        ),
    ),
    Step(
        "turf", AREA, COST, lambda s, x, n: x * n, {"n": price}, (
            "One square metre costs ${n}.", "The work costs ${n} a square metre.",
            "{Owner} pays ${n} for every square metre.",
            "The price for a square metre is ${n}.", "Covering it costs ${n} a square metre.",
            "A square metre of cover is ${n}.",
        ), variable="cost",
    ),
    Step(
        "fencing", FENCE, COST, lambda s, x, n: x * n, {"n": price}, (
            "A metre of fence costs ${n}.", "{Owner} pays ${n} for every metre.", "The fence is ${n} a metre.",
            "Each metre of it costs ${n}.", "The price of one metre is ${n}.", "A shop sells it at ${n} a metre.",
        ), variable="cost", weight=2,
    ),
    Step(
        "gate", FENCE, FENCE, lambda s, x, n: x - n, {"n": below}, (
            "A gate of {n} metres needs no fence.", "{He} leaves {n} metres open.",
            "On {n} metres stands a wall already.",
            "{Owner} has {n} metres of it from before.", "A hedge takes the place of {n} metres of it.",
            "{Owner} spares {n} metres at the door.",
        ),
    ),
    Step(
        "older", AGE, AGE, lambda s, x, n: x + n, {"n": between(2, 30)}, (
            "{Other} is {n} years older than {Owner}.", "{Owner} is {n} years younger than {Other}.",
            "{Other} was born {n} years before {Owner}.", "When {Owner} was born, {Other} was {n} years old.",
            "The age of {Other} is {n} years more than that of {Owner}.",
            "{Other} has lived {n} years longer than {Owner}.",
        ), moves=True,
    ),
    Step(
        "younger", AGE, AGE, lambda s, x, n: x - n, {"n": below}, (
            "{Other} is {n} years younger than {Owner}.", "{Owner} is {n} years older than {Other}.",
            "{Other} was born {n} years after {Owner}.", "When {Other} was born, {Owner} was {n} years old.",
            "The age of {Other} is {n} years less than that of {Owner}.",
            "{Owner} has lived {n} years longer than {Other}.",
        ), moves=True,
    ),
    Step(
        "times as old", AGE, AGE, lambda s, x, n: x * n, {"n": lifetimes}, (
            "{Other} is {times} as old as {Owner}.", "The age of {Other} is {n} times that of {Owner}.",
            "{Other} is {n} times the age of {Owner}.", "Multiplied by {n}, the age of {Owner} is that of {Other}.",
            "{Other} has lived {times} as long as {Owner}.",
            "{Owner} would have to be {times} as old to be as old as {Other}.",
        ), moves=True,
    ),
    Step(
        "in some years", AGE, FIGURE, lambda s, x, n: x + n, {"n": between(2, 30)}, questions=(
            "How old will {Owner} be in {n} years?", "What age will {Owner} have {n} years from now?",
            "In {n} years, how old is {Owner}?", "After {n} more years, what is the age of {Owner}?",
            "How old does {Owner} get in {n} years?", "Which birthday can {Owner} celebrate in {n} years?",
        ), weight=2,
    ),
    Step(
        "some years ago", AGE, FIGURE, lambda s, x, n: x - n, {"n": below}, questions=(
            "How old was {Owner} {n} years ago?", "What was the age of {Owner} {n} years ago?",
            "{n} years ago, how old was {Owner}?", "Going back {n} years, how old was {Owner}?",
            "What age did {Owner} have {n} years before?", "How many years old was {Owner} {n} years earlier?",
        ), weight=2,
    ),
    Step(
        "tax", COST, COST, lambda s, x, n: x + s.let("tax", percent(x, n)), {"n": percentage}, (
            "A tax of {n}% is added.", "The shop adds {n}% of tax.", "{Owner} also pays {n}% of tax on it.",
            "To this comes a tax of {n}%.", "With the tax it is {n}% more.", "A fee makes it {n}% more expensive.",
        ),
    ),
    Step(
        "split bill", COST, FIGURE, lambda s, x, n: x / n, {"n": divisor(2, 9)}, questions=(
            "{n} friends share the price equally. How many dollars does each pay?",
            "If {n} people split the bill, how much does each of them pay?", "How much is it for each of {n} people?",
            "{Owner} pays in {n} equal parts. How many dollars is one of them?",
            "A class of {n} pays it together. What is the share of each in dollars?",
            "The price is divided by {n}. How many dollars is that?",
        ),
    ),
    Step(
        "lasting", MONEY, FIGURE, lambda s, x, n: x / n, {"n": divisor(2, 25)}, questions=(
            "How many days does the money last at ${n} a day?",
            "{Owner} spends ${n} a week. For how many weeks is it enough?",
            "At a cost of ${n} a month, for how many months can {Owner} pay?",
            "A ticket costs ${n}. How many tickets can {he} buy?", "How many bills of ${n} would that be?",
            "If lunch is ${n}, for how many lunches does the money last?",
        ),
    ),
    Step(
        "interest", MONEY, MONEY, lambda s, x, n: x + s.let("more", percent(x, n)), {"n": percentage}, (
            "The bank adds {n}% to it.", "It grows by {n}%.", "A bonus makes it {n}% more.",
            "In a year {Owner} gets {n}% on top.", "{Owner} gains {n}% by trading.", "An uncle adds {n}% to the money.",
        ),
    ),
    Step(
        "price of a goal", MONEY, FIGURE, lambda s, x, n: n - x, {"n": lambda rng, x: int(x) + rng.randint(3, 90)},
        questions=(
            "A bike costs ${n}. How many dollars are missing?", "How much more does {Owner} need for a tent of ${n}?",
            "{Owner} wants to save ${n}. How much is missing?",
            "The trip costs ${n}. How many more dollars does {he} need?",
            "How many dollars must {Owner} still earn to have ${n}?",
            "A guitar is ${n}. How many dollars does {he} lack?",
        ),
    ),
)  # fmt: skip
