"""What the model knows: relations, each a table of facts and many wordings to ask for them.

A wording is a format string; its slots come from the fact. Any wording of a relation fits any
fact of it, so a fact is met in all of them and the model learns to look at the words that count.
`about_manyhands.py` and `about_itself.py` hold the relations of Manyhands and of the model.
"""

from dataclasses import dataclass
from random import Random

from .words import listed

Slots = dict[str, str]


@dataclass(frozen=True, slots=True)
class Relation:
    """Facts of one kind: the slots of a question, and the answer in full."""

    name: str
    wordings: tuple[str, ...]
    facts: tuple[tuple[Slots, str], ...]

    def draw(self, rng: Random) -> tuple[str, str]:
        """A question in some wording, and its answer."""
        slots, answer = rng.choice(self.facts)
        return rng.choice(self.wordings).format(**slots), answer


def single(name: str, answer: str, *wordings: str) -> Relation:
    """A relation of one fact."""
    return Relation(name, wordings, (({}, answer),))


def _pairs(text: str, answer: str) -> tuple[tuple[Slots, str], ...]:
    """Facts from `key: value; …`; `answer` has the slots {a} and {b}, or {A} for a capital."""
    facts = []
    for line in text.split(";"):
        a, b = (part.strip() for part in line.split(":"))
        facts.append(({"a": a}, answer.format(a=a, b=b, A=a.capitalize(), B=b.capitalize())))
    return tuple(facts)


def _both_ways(text: str, answer: str) -> tuple[tuple[Slots, str], ...]:
    turned = ";".join(":".join(reversed(line.split(":"))) for line in text.split(";"))
    return _pairs(f"{text};{turned}", answer)


CAPITALS = Relation(
    "capital",
    (
        "What is the capital of {a}?",
        "Which city is the capital of {a}?",
        "Name the capital of {a}.",
        "Tell me the capital of {a}.",
        "What is the capital city of {a}?",
        "What city is {a}'s capital?",
        "What is {a}'s capital?",
        "Can you name the capital city of {a}?",
        "I want to know the capital of {a}.",
        "Do you know what the capital of {a} is?",
        "{a} has a capital. Which city is it?",
        "What is the capital called in {a}?",
        "Give me the capital of {a}.",
        "In {a}, which city is the capital?",
        "Please name the capital of {a}.",
        "Which capital does {a} have?",
        "Where is the government of {a}? Name the capital.",
        "I am going to the capital of {a}. Which city is that?",
        "Of {a}, what is the capital?",
        "What was the capital of {a} again?",
    ),
    _pairs(
        "France: Paris; Japan: Tokyo; Italy: Rome; Spain: Madrid; Germany: Berlin; Egypt: Cairo;"
        "Greece: Athens; Norway: Oslo; Peru: Lima; Kenya: Nairobi; Cuba: Havana; Austria: Vienna;"
        "Portugal: Lisbon; Poland: Warsaw; Sweden: Stockholm; Ireland: Dublin; China: Beijing;"
        "India: New Delhi; Canada: Ottawa; Finland: Helsinki",
        "The capital of {a} is {b}.",
    ),
)

SOUNDS = Relation(
    "sound",
    (
        "What sound does a {a} make?",
        "What noise does a {a} make?",
        "What does a {a} say?",
        "Which sound does the {a} make?",
        "Tell me the sound of a {a}.",
        "How does a {a} sound?",
        "What is the sound of a {a}?",
        "A {a} makes a sound. What is it?",
        "What do you hear from a {a}?",
        "Do you know what the {a} says?",
        "Name the sound that a {a} makes.",
        "What sounds come from the {a}?",
        "When you hear a {a}, what is the sound?",
        "If a {a} could talk, what would it say?",
        "What kind of sound does a {a} make?",
        "What noise comes from a {a}?",
        "A {a} goes how?",
        "How do {a} noises sound?",
        "Make the sound of a {a}.",
    ),
    _pairs(
        "cow: moo; dog: woof; cat: meow; duck: quack; sheep: baa; pig: oink; horse: neigh;"
        "bee: buzz; frog: croak; lion: roar; snake: hiss; mouse: squeak; bird: tweet; wolf: howl",
        "A {a} says {b}.",
    ),
)

OPPOSITES = Relation(
    "opposite",
    (
        "What is the opposite of {a}?",
        "Tell me the opposite of {a}.",
        "Name the opposite of {a}.",
        "Which word is the opposite of {a}?",
        "What word means the opposite of {a}?",
        "Give me the opposite of {a}.",
        "Give the opposite word for {a}.",
        "Do you know the opposite of {a}?",
        "What is the opposite word of {a}?",
        "I need the opposite of {a}.",
        "Say the opposite of {a}.",
        "If something is not {a}, but the opposite, what is it?",
        "{a} has an opposite. What is it?",
        "Think of the opposite of {a}.",
        "The opposite of {a}, please.",
        "What would you call the opposite of {a}?",
        "Show me the opposite of {a}.",
        "Write the opposite of {a}.",
    ),
    _both_ways(
        "hot: cold; big: small; up: down; day: night; fast: slow; old: young; wet: dry; happy: sad;"
        "open: closed; full: empty; hard: soft; left: right; high: low; light: dark; early: late;"
        "loud: quiet",
        "The opposite of {a} is {b}.",
    ),
)

COLOURS = Relation(
    "colour",
    (
        "What colour is {a}?",
        "Which colour is {a}?",
        "What is the colour of {a}?",
        "Tell me the colour of {a}.",
        "What colour does {a} have?",
        "Name the colour of {a}.",
        "What color is {a}?",
        "What is the color of {a}?",
        "Which colour has {a}?",
        "Do you know what colour {a} is?",
        "{a} has a colour. Which one?",
        "{a} is of what colour?",
        "The colour of {a}, please.",
        "When I see {a}, which colour do I see?",
        "Say what colour {a} has.",
        "Of what colour is {a}?",
    ),
    _pairs(
        "the sky: blue; grass: green; snow: white; a banana: yellow; coal: black; blood: red;"
        "a carrot: orange; the sun: yellow; milk: white; a tomato: red; the sea: blue;"
        "a lemon: yellow; a leaf: green; the night: black",
        "{A} is {b}.",
    ),
)

YOUNG = Relation(
    "young",
    (
        "What is a baby {a} called?",
        "What do you call a baby {a}?",
        "What is the name for a young {a}?",
        "What do we call a young {a}?",
        "Name the word for a baby {a}.",
        "How do you call the baby of a {a}?",
        "What is the young of a {a} called?",
        "Tell me what a baby {a} is called.",
        "Which word means a baby {a}?",
        "The baby of a {a} is called what?",
        "A baby {a} has which name?",
        "What is the right word for a baby {a}?",
        "Say the word for a young {a}.",
        "A young {a} is called what?",
        "How is a baby {a} called?",
    ),
    _pairs(
        "dog: puppy; cat: kitten; cow: calf; sheep: lamb; horse: foal; duck: duckling;"
        "frog: tadpole; goat: kid; bear: cub; hen: chick",
        "A baby {a} is called a {b}.",
    ),
)

LEGS = Relation(
    "legs",
    (
        "How many legs does a {a} have?",
        "How many legs has a {a}?",
        "Tell me how many legs a {a} has.",
        "What is the number of legs of a {a}?",
        "Count the legs of a {a}.",
        "A {a} has how many legs?",
        "Do you know how many legs a {a} has?",
        "On how many legs does a {a} walk?",
        "Give me the number of legs of a {a}.",
        "If you look at a {a}, how many legs are there?",
        "What number of legs has a {a}?",
        "How many legs are on a {a}?",
        "The legs of a {a}: how many are there?",
    ),
    _pairs(
        "dog: four; cat: four; bird: two; spider: eight; bee: six; horse: four; duck: two;"
        "snake: no; fish: no; cow: four; hen: two; beetle: six",
        "A {a} has {b} legs.",
    ),
)

_DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_MONTHS = listed(
    "January February March April May June July August September October November December"
)
_NEXT = [(a, b) for row in (_DAYS, _MONTHS) for a, b in zip(row, row[1:] + row[:1], strict=True)]

AFTER = Relation(
    "after",
    (
        "What comes after {a}?",
        "Which one comes after {a}?",
        "What comes right after {a}?",
        "Tell me what comes after {a}.",
        "What follows {a}?",
        "After {a} comes what?",
        "What is next after {a}?",
        "Name what comes after {a}.",
        "What comes next after {a}?",
        "Which is next, after {a}?",
        "{a} is followed by what?",
        "Say what comes after {a}.",
        "Which one follows {a}?",
        "What will it be after {a}?",
    ),
    tuple(({"a": a}, f"After {a} comes {b}.") for a, b in _NEXT),
)

BEFORE = Relation(
    "before",
    (
        "What comes before {a}?",
        "Which one comes before {a}?",
        "What comes right before {a}?",
        "Tell me what comes before {a}.",
        "Before {a} comes what?",
        "What is just before {a}?",
        "Name what comes before {a}.",
        "What comes just before {a}?",
        "Which one is before {a}?",
        "Say what comes before {a}.",
        "What was it before {a}?",
        "{a} comes after which one?",
        "What goes before {a}?",
    ),
    tuple(({"a": b}, f"Before {b} comes {a}.") for a, b in _NEXT),
)

WORLD = (CAPITALS, SOUNDS, OPPOSITES, COLOURS, YOUNG, LEGS, AFTER, BEFORE)
