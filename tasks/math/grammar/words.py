"""Who has what: the names, things and idle remarks that fill word problems, a few for a small model and many."""

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

HIS = """
Adam Ahmed Alan Albert Amir Andre Anton Arjun Arthur Bruno Carl Chen Colin Daniel David Diego Dmitri Edgar Eli
Emil Eric Ethan Felix Finn Frank Gabriel George Hassan Henry Hiro Ian Isaac Jamal James Jin Joel John Jonas Juan
Karim Kenji Kofi Kurt Liam Lucas Marco Mark Martin Mateo Max Miguel Milan Musa Nathan Nico Oliver Oscar Pablo
Paul Pedro Peter Rashid Robert Samuel Simon Stefan Theo Tony Victor Walter
"""
HERS = """
Ada Aisha Alice Amy Anita Anna Bella Carla Chloe Clara Daisy Diana Elena Ella Elsa Emily Erika Esther Fatima Fiona
Flora Grace Hana Hannah Helen Ines Irene Iris Isabel Jade Jane Jasmine Julia Karen Kim Laila Laura Leila Lena Linda
Lucy Maria Marta Maya Megan Monica Nadia Naomi Nina Olga Olivia Paula Petra Priya Rachel Rita Sofia Sonia Sophie
Stella Tara Tina Ursula Vera Wendy Yara Yuki Zara
"""
MANY_NAMES = (*NAMES, *((name, "he") for name in HIS.split()), *((name, "she") for name in HERS.split()))

# Singular, and after a bar the plural where it is not the singular and an s.
OBJECTS = {
    "fruit": "apple pear peach|peaches plum banana mango|mangoes orange lemon melon fig grape kiwi coconut date",
    "bakery": "cookie muffin bagel cake pie roll cracker waffle pancake pretzel biscuit scone donut loaf|loaves",
    "garden": "rose tulip seed bulb pumpkin carrot radish|radishes bean cabbage leek onion fern herb bush|bushes",
    "desk": "pencil pen eraser ruler notebook marker crayon folder stapler clip envelope binder label stamp",
    "toys": "ball doll kite puppet robot puzzle yo-yo drum whistle block balloon car train top",
    "kitchen": "cup plate bowl spoon fork knife|knives pan pot glass|glasses jar mug tray lid kettle",
    "clothes": "shirt sock hat scarf|scarves glove coat belt sweater skirt jacket tie cap boot apron",
    "beach": "shell stone pebble crab towel bucket shovel umbrella starfish|starfish float paddle net hook flag",
    "library": "book magazine comic map poster novel atlas|atlases card photo letter stamp page bookmark newspaper",
    "crafts": "bead button ribbon candle brush|brushes basket ring bracelet necklace mask frame tile vase lantern",
    "animals": "hen duck goat sheep|sheep rabbit fish|fish pigeon goose|geese calf|calves kitten lamb horse frog bee",
    "party": "streamer gift costume sparkler lollipop banner cupcake straw napkin lamp sticker wig invitation game",
    "sports": "medal trophy|trophies racket bat helmet jersey dart oar cone canoe dumbbell shuttlecock puck skate",
    "travel": "suitcase ticket map postcard pillow blanket tent bag lamp bottle backpack souvenir coin badge",
    "workshop": "nail screw bolt hammer brick chisel clamp pulley drill hinge plug wrench|wrenches magnet gear",
}  # fmt: skip
HELD_OUT_THEMES = frozenset({"workshop"})  # that no training problem is about

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

MORE_DISTRACTORS = (
    *DISTRACTORS,
    "{Other} once saw {n} {objects} in a picture.",
    "{Other} wants to buy {n} {objects} next year.",
    "{Owner} has read {n} pages about {extras}.",
    "A {extra} costs ${n} in another town.",
    "The {objects} of {Other} weigh {n} grams each.",
    "Last summer {Other} sold {n} {extras}.",
    "The street of {Owner} has {n} houses.",
    "{Other} lives at number {n}.",
    "It is {n} days until the holidays.",
    "All of this happens on a rainy day.",
    "Most of the {objects} are red.",
    "{Other} likes {extras} better than {objects}.",
    "The {objects} come in many sizes.",
)


def themes() -> dict[str, tuple[tuple[str, str], ...]]:
    """Return the objects of every theme as (singular, plural)."""
    return {
        theme: tuple((one, many or f"{one}s") for one, _, many in (word.partition("|") for word in words.split()))
        for theme, words in OBJECTS.items()
    }
