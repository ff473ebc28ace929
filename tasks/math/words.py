"""Who has what: the names, things and idle remarks that fill word problems."""

NAMES = (
    ("Tom", "he"), ("Ben", "he"), ("Sam", "he"), ("Leo", "he"), ("Dan", "he"), ("Jack", "he"), ("Omar", "he"),
    ("Ravi", "he"), ("Hugo", "he"), ("Ivan", "he"), ("Luis", "he"), ("Noah", "he"),
    ("Ana", "she"), ("Mia", "she"), ("Eva", "she"), ("Zoe", "she"), ("Lily", "she"), ("Emma", "she"), ("Nora", "she"),
    ("Rosa", "she"), ("Sara", "she"), ("Kate", "she"), ("Mei", "she"), ("Ruth", "she"),
)  # fmt: skip

THINGS = (
    ("apple", "apples"), ("pear", "pears"), ("lemon", "lemons"), ("egg", "eggs"), ("cookie", "cookies"),
    ("shell", "shells"), ("stone", "stones"), ("marble", "marbles"), ("bead", "beads"), ("button", "buttons"),
    ("card", "cards"), ("stamp", "stamps"), ("sticker", "stickers"), ("photo", "photos"), ("book", "books"),
    ("pen", "pens"), ("toy", "toys"), ("ball", "balls"), ("rose", "roses"), ("cup", "cups"),
)  # fmt: skip

PARTS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}

DISTRACTORS = (
    "{Owner} also has {n} {extras}.",
    "{Other} has {n} {extras}.",
    "{Other} has {n} {objects} too.",
    "{Owner} is {n} years old.",
    "{Other} is {n} years old.",
    "The walk home takes {n} minutes.",
    "The shop is {n} miles away.",
    "{Other} paid ${n} for a {extra}.",
    "There are {n} people in the street.",
)
