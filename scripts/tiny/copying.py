"""Names and words that an answer takes over from its question."""

from random import Random

from . import words
from .relations import Slots
from .tasks import Task


def _own_name(rng: Random) -> tuple[Slots, str]:
    name = words.name(rng)
    return {"n": name}, f"Your name is {name}."


OWN_NAME = Task(
    "own name",
    (
        "My name is {n}. What is my name?",
        "I am {n}. What is my name?",
        "I am called {n}. What am I called?",
        "Hello, my name is {n}. What is my name?",
        "Hi, I am {n}. Who am I?",
        "My name is {n}. Who am I?",
        "You can call me {n}. What is my name?",
        "My name is {n}. Say my name.",
        "I am {n}. Tell me my name.",
        "What is my name? My name is {n}.",
        "My name is {n}. Can you tell me my name?",
        "My name is {n}. Do you know my name?",
        "My friends call me {n}. What is my name?",
        "They call me {n}. What am I called?",
        "Remember that my name is {n}. What is my name?",
        "{n} is my name. What is my name?",
        "People know me as {n}. What is my name?",
        "I was born as {n}. What am I called?",
        "Call me {n}. Then tell me my name.",
        "I am {n}, and who am I?",
        "My name is {n}. Which name is mine?",
    ),
    _own_name,
)


def _pet(rng: Random) -> tuple[Slots, str]:
    name, pet = words.name(rng), rng.choice(words.PETS + words.RELATIVES)
    return {"n": name, "p": pet}, f"Your {pet} is called {name}."


PET = Task(
    "pet",
    (
        "My {p} is called {n}. What is my {p} called?",
        "My {p}'s name is {n}. What is my {p}'s name?",
        "I have a {p} named {n}. What is the name of my {p}?",
        "My {p} is {n}. What is my {p} called?",
        "The name of my {p} is {n}. What is the name of my {p}?",
        "I have a {p}. It is called {n}. What is my {p} called?",
        "My {p} is named {n}. Tell me the name of my {p}.",
        "My {p} is called {n}. How is my {p} called?",
        "I call my {p} {n}. What do I call my {p}?",
        "My {p} is called {n}. Who is my {p}?",
        "This is my {p} {n}. What is my {p} called?",
        "We have a {p} and named it {n}. What is our {p} called?",
        "{n} is my {p}. What is my {p} called?",
        "Meet my {p} {n}. What is the name of my {p}?",
    ),
    _pet,
)


def _likes(rng: Random) -> tuple[Slots, str]:
    colour, thing, name = rng.choice(words.COLOURS), rng.choice(words.THINGS), words.name(rng)
    return (
        {"c": colour, "t": thing, "n": name},
        f"{name} has the {colour} {thing}.",
    )


OWNER = Task(
    "owner",
    (
        "{n} has a {c} {t}. What does {n} have?",
        "{n} has a {c} {t}. Who has the {t}?",
        "{n} bought a {c} {t}. What does {n} have now?",
        "The {c} {t} belongs to {n}. Who has the {t}?",
        "{n} got a {c} {t}. Who has it?",
        "{n} took the {c} {t}. Who has the {t}?",
        "{n} owns a {c} {t}. What does {n} own?",
        "{n} owns a {c} {t}. Who owns the {t}?",
        "There is a {c} {t}. It belongs to {n}. Who has it?",
        "The {t} of {n} is {c}. What does {n} have?",
        "{n} lost nothing and has a {c} {t}. What does {n} have?",
        "{n} carries a {c} {t}. Who carries the {t}?",
        "Look, {n} has a {c} {t}! Who has the {t}?",
    ),
    _likes,
)


def _repeat(rng: Random) -> tuple[Slots, str]:
    said = rng.choice((words.word(rng), words.name(rng), f"{words.word(rng)} {words.word(rng)}"))
    return {"w": said}, said


REPEAT = Task(
    "repeat",
    (
        "Say {w}.",
        "Say the word {w}.",
        "Repeat {w}.",
        "Repeat after me: {w}.",
        "Please say {w}.",
        "Please repeat: {w}.",
        "Can you say {w}?",
        "Write the word {w}.",
        "Write {w}.",
        "Echo {w}.",
        "Just say {w}.",
        "I want you to say {w}.",
        "Repeat the word {w}.",
        "Tell me the word {w}.",
        "Say {w} again.",
        "Can you repeat {w}?",
        "Answer with {w}.",
    ),
    _repeat,
)


def _repeat_list(rng: Random) -> tuple[Slots, str]:
    pick = (words.word, words.word, words.name)
    said = " ".join(rng.choice(pick)(rng) for _ in range(rng.randint(2, 6)))
    return {"l": said}, said


REPEAT_LIST = Task(
    "repeat list",
    (
        "Copy these words: {l}.",
        "Repeat these words: {l}.",
        "Say these words after me: {l}.",
        "Write these words again: {l}.",
        "Here are some words: {l}. Say them again.",
        "Echo these words: {l}.",
        "What did I say? {l}.",
    ),
    _repeat_list,
)

COPYING = (OWN_NAME, PET, OWNER, OWNER, REPEAT, REPEAT, REPEAT_LIST, REPEAT_LIST)
VERBATIM = (REPEAT, REPEAT_LIST)  # whose answers are words of the question, as they stand
