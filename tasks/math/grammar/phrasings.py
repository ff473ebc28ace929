"""Further phrasings of the steps and units in steps.py, for the whole grammar: (sentences, questions) by kind."""

from __future__ import annotations

from tasks.math.grammar.steps import COST, MONEY, THINGS

MORE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "given things": ((
        "{Owner} owns {n} {objects}.", "A box with {n} {objects} belongs to {Owner}.",
        "{n} {objects} lie on the table of {Owner}.",
    ), ()),
    "given money": ((
        "{Owner} has saved ${n}.", "There are ${n} in the purse of {Owner}.", "{Owner} gets ${n} for a birthday.",
        "{Owner} starts the day with ${n}.",
    ), ()),
    "boxes": ((
        "{Owner} fills {n} bags with {m} {objects} each.", "{Owner} sets up {n} rows of {m} {objects}.",
        "In each of {n} drawers {Owner} keeps {m} {objects}.",
    ), ()),
    "rate": ((
        "For {m} days {Owner} finds {n} {objects} a day.", "{Owner} picks {n} {objects} every hour for {m} hours.",
        "In each of {m} months {Owner} receives {n} {objects}.",
    ), ()),
    "wages": ((
        "{Owner} works {m} hours at ${n} an hour.", "For each of {m} lessons {Owner} is paid ${n}.",
        "{Owner} mows {m} lawns for ${n} each.", "A job pays {Owner} ${n} a week for {m} weeks.",
    ), ()),
    "gain": ((
        "{He} wins {n} {objects} in a game.", "{Owner} makes {n} more {objects}.",
    ), ()),
    "loss": ((
        "{Owner} sells {n} of the {objects}.", "A neighbour borrows {n} {objects} from {Owner}.",
    ), ()),
    "transfer": ((
        "All the {objects} of {Owner} go to {Other}, who had {n} before.",
        "{Other}, who owns {n} {objects}, takes over all those of {Owner}.",
        "{Owner} leaves all the {objects} to {Other} and the {n} that {Other} has.",
        "{Other} adds the {objects} of {Owner} to a collection of {n}.",
    ), ()),
    "times": ((
        "{Other} has {n} times what {Owner} has in {objects}.",
        "The {objects} of {Other} are {times} as many as those of {Owner}.",
        "{Other} collected {times} as many {objects} as {Owner}.",
    ), ()),
    "fraction": ((
        "{Other} owns {part} of the number that {Owner} owns.",
        "The {objects} of {Owner} are {n} times as many as those of {Other}.",
        "{Owner} has {times} as many {objects} as {Other}.", "{Other} found {part} as many {objects} as {Owner}.",
    ), ()),
    "part away": ((
        "{Owner} sells {part} of the {objects}.", "A storm ruins {part} of the {objects}.",
        "{He} leaves {part} of the {objects} at home.",
    ), ()),
    "percent of": ((
        "{Owner} sells the rest and keeps {n}% of the {objects}.", "After a fire only {n}% of the {objects} are left.",
        "{He} picks out {n}% of the {objects} and throws the others away.", "Of the {objects}, {n}% stay with {Owner}.",
    ), ()),
    "percent more": ((
        "{Other} owns {n}% more than {Owner}.", "Compared with {Owner}, {Other} has {n}% more {objects}.",
        "{Other} collected {n}% more {objects} than {Owner}.", "{Other} beats {Owner} by {n}% in {objects}.",
    ), ()),
    "percent less": ((
        "{Other} owns {n}% less than {Owner}.", "Compared with {Owner}, {Other} has {n}% fewer {objects}.",
        "{Other} collected {n}% fewer {objects} than {Owner}.", "{Other} falls behind {Owner} by {n}% in {objects}.",
    ), ()),
    "more than": ((
        "{Other} owns {n} {objects} more than {Owner}.",
        "If {Owner} had {n} more {objects}, it would be as many as {Other} has.",
        "{Other} is ahead of {Owner} by {n} {objects}.", "Compared with {Owner}, {Other} has {n} {objects} extra.",
    ), ()),
    "fewer than": ((
        "{Other} owns {n} {objects} less than {Owner}.",
        "If {Other} had {n} more {objects}, it would be as many as {Owner} has.",
        "{Other} is behind {Owner} by {n} {objects}.", "{Owner} leads {Other} by {n} {objects}.",
    ), ()),
    "every day": ((
        "For {m} weeks {he} receives {n} {objects} a week.", "{Owner} makes {n} {objects} on each of {m} evenings.",
        "On {m} days {he} finds {n} {objects} each.", "Each of {m} friends gives {him} {n} {objects}.",
    ), ()),
    "sharing": ((), (
        "{Owner} splits the {objects} evenly between {n} children. How many are there for each?",
        "The {objects} are dealt to {n} people in equal parts. How many does one person get?",
        "{n} baskets hold the {objects}, all the same number. How many are in one?",
        "How many {objects} go on each of {n} plates if they are spread evenly?",
    )),
    "packing": ((
        "The {objects} go into bags with {n} in each.", "Each bag takes {n} {objects}, and {Owner} fills them all.",
        "{Owner} sorts the {objects} into bags, {n} to a bag.", "{He} makes bags of {n} {objects}.",
    ), ()),
    "selling": ((
        "All the {objects} are sold at ${n} each.", "A shop pays {him} ${n} for every {object}.",
        "{Owner} gets ${n} for each {object} and sells them all.",
        "At the market {he} takes ${n} for each {object} until all are gone.",
    ), ()),
    "unit price": ((
        "One {object} is ${n}.", "The {objects} cost ${n} apiece.", "For every {object} the shop asks ${n}.",
    ), ()),
    "income": ((
        "{He} finds ${n}.", "{Owner} sells a chair for ${n}.", "A neighbour pays {him} ${n}.",
        "{Owner} wins a prize of ${n}.",
    ), ()),
    "spending": ((
        "{He} gives ${n} to a friend.", "{Owner} buys a lamp for ${n}.", "A repair costs {him} ${n}.",
        "{Owner} loses ${n}.",
    ), ()),
    "saving": ((
        "Each of {m} days adds ${n}.", "For {m} months {he} puts ${n} a month in the bank.",
        "{Owner} earns ${n} from each of {m} dogs.",
        "{He} gets ${n} a day for {m} days.",
    ), ()),
    "affording": ((
        "{He} buys as many {objects} as {he} can, at ${n} each.",
    ), (
        "At ${n} for one, how many {objects} can {Owner} afford?",
        "How many {objects} does {he} get for it if one is ${n}?",
    )),
    "discount": ((
        "A card makes it {n}% cheaper.", "{n}% of the price are taken off.", "There is a sale, and all is {n}% less.",
        "{Owner} pays {n}% less with a coupon.",
    ), ()),
    "delivery": ((
        "The service is ${n} on top.", "A gift box costs ${n} more.", "{He} leaves a tip of ${n}.",
        "Postage comes to another ${n}.",
    ), ()),
    "change": ((), (
        "How many dollars come back from a bill of ${n}?", "{Owner} hands over ${n}. What does {he} get back?",
        "From ${n}, how much money is left to {Owner}?", "If {he} gives the clerk ${n}, how much is the change?",
    )),
    "total": ((), (
        "{owners} put their {objects} together. How many are there?", "How many {objects} are there in all?",
        "What do {owners} have in total?", "Taken together, how many {objects} do {owners} own?",
    )),
    "difference": ((), (
        "How many {objects} more than {Fewest} does {Most} own?",
        "What is the difference between {Most} and {Fewest} in {objects}?",
        "How many {objects} does {Fewest} need to catch up with {Most}?",
        "{Most} has more than {Fewest}. How many {objects} more?",
    )),
}  # fmt: skip

MORE_UNITS: dict[str, tuple[str, ...]] = {
    THINGS: (
        "How many {objects} are there now?",
        "In the end, how many {objects} does {Owner} have?",
        "Find the number of {objects} of {Owner}.",
    ),
    MONEY: (
        "What amount of money does {Owner} have?",
        "In the end, how many dollars does {Owner} have?",
        "How rich is {Owner} now, in dollars?",
    ),
    COST: (
        "What does {Owner} have to pay?",
        "How much is it in dollars?",
        "Find the price in dollars.",
    ),
}
