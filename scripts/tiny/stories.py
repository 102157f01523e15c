"""Short stories with one protagonist, named in the first sentence and acting to the last.

Nobody else has a name, and the helper, the thing and the place stay the same all through, so
that a model can learn to keep them.
"""

from collections.abc import Sequence
from random import Random
from zlib import crc32

from . import words
from .words import listed

OPENINGS = (
    "Once upon a time, there was a {mood} {child} named {name}.",
    "Once upon a time, a {mood} {child} named {name} lived near a {place}.",
    "There once was a {child} named {name}, who was very {mood}.",
    "{name} was a {mood} {child} who lived near a {place}.",
    "One day, a {mood} {child} named {name} went to the {place}.",
    "Long ago, there lived a {mood} {child} called {name}.",
    "There was once a {mood} {child}, and {her} name was {name}.",
    "In a house by the {place} lived a {child} named {name}.",
    "This story is about {name}, a {mood} {child}.",
    "Let me tell you about {name}, a {mood} {child}.",
    "Many years ago, a {child} named {name} lived at the {place}.",
    "A {mood} {child} named {name} sat near the {place} one day.",
    "{name} lived in a house by the {place} with {her} mother and father.",
    "Early in the morning, {name}, a {mood} {child}, woke up.",
    "{name} was a {mood} {child} with a good heart.",
    "{name} was a {mood} child and had a good heart.",
    "There was a {mood} child named {name} who lived at the {place}.",
    "{name} was {mood} and liked to walk to the {place}.",
    "Everybody near the {place} knew {name}, the {mood} {child}.",
    "There lived a {child} near the {place}, and everybody called {her2} {name}.",
    "This is what happened to a {child} named {name}.",
    "Have you heard of {name}, the {mood} {child}?",
    "Near the {place} there stood a house, and in it lived {name}.",
)
WISHES = (
    "{name} had a {colour} {thing} and loved it very much.",
    "{She} loved {her} {colour} {thing} more than anything.",
    "Every day {name} played with {her} {colour} {thing}.",
    "{Her} best toy was a {colour} {thing}.",
    "{name} always took {her} {colour} {thing} along.",
    "For {her} birthday, {name} got a {colour} {thing}.",
)
TROUBLES = (
    "One morning, {name} could not find the {thing} and felt sad.",
    "One {time}, {name} went to the {place} and lost the {thing}.",
    "But one {time} the wind took the {thing} away, and {name} cried.",
    "One {time}, {name} dropped the {thing} near the {place} and did not see it.",
    "Then one {time} the {thing} was gone. {name} looked under the bed, but it was not there.",
    "One {time}, the {thing} fell into a deep hole at the {place}, and {name} began to cry.",
)
MEETINGS = (
    "{name} walked to the {place} and met a {size} {animal}.",
    "At the {place} {she} saw a {size} {animal}.",
    "Then {name} met a {size} {animal} who was hungry.",
    "On the way, {name} saw a {size} {animal} under a tree.",
    "Soon a {size} {animal} came along the path.",
)
TALKS = (
    '"Hello, {animal}!" said {name}. "Can you help me?"',
    '{name} said, "Hello, {animal}. Have you seen my {thing}?"',
    '"Why are you sad?" asked the {animal}. "I lost my {thing}," said {name}.',
    '{name} asked the {animal}, "Will you look for my {thing} with me?"',
    "{name} gave the {animal} some {food} and asked for help.",
)
DEEDS = (
    "The {animal} said yes, and {name} began to look again.",
    "{name} and the {animal} looked behind every tree.",
    "The {animal} knew the way, so {name} followed it to the {place}.",
    "{name} was brave and climbed up high to see better.",
    "{name} looked left and right, and the {animal} looked up and down.",
    "{name} did not give up, and the {animal} did not give up either.",
)
FINDS = (
    "At last {name} found the {colour} {thing} near the {place}.",
    'Then {name} saw the {colour} {thing}. "There it is!" {she} said.',
    "Under a big leaf {name} found the {colour} {thing}.",
    "The {animal} pointed, and {name} picked up the {colour} {thing}.",
    "Suddenly {name} saw something {colour}. It was the {thing}!",
)
THANKS = (
    '"Thank you, {animal}!" said {name}.',
    "{name} hugged the {animal} and thanked it.",
    "{name} shared {her} {food} with the {animal}.",
    "The {animal} was happy, and {name} was happy too.",
    '"You are a good friend," {name} told the {animal}.',
)
ENDINGS = (
    "{name} went home with the {thing} and slept well.",
    "That night {name} smiled and fell asleep.",
    "From that day on, {name} and the {animal} were friends.",
    "{name} never forgot the {size} {animal}.",
    "And {name} learned that a friend makes everything easier.",
    "{name} ran home and told {her} mother all about it.",
)
PARTS = (OPENINGS, WISHES, TROUBLES, MEETINGS, TALKS, DEEDS, FINDS, THANKS, ENDINGS)

MOODS = listed("happy little brave kind clever shy quiet cheerful curious funny gentle lucky")
SIZES = listed("small big young tiny friendly grey quick sleepy wise")
TIMES = ("day", "afternoon", "evening", "night")

REQUESTS = (
    "Tell me a story about a {child} named {name}.",
    "Tell me a story about {name}.",
    "Please tell me a short story about {name}.",
    "Write a story about a {child} called {name}.",
    "Write a short story about {name}.",
    "I want to hear a story about {name}.",
    "Can you tell me a story about {name}?",
    "Make up a story about a {child} named {name}.",
    "Tell a story with {name} in it.",
    "Could you write a little story about {name}?",
    "Please write a tale about {name}.",
    "A story about {name}, please.",
    "Tell me something that happened to {name}.",
    "Could I have a story about a {mood} {child} named {name}?",
    "Tell me a story. The {child} is called {name}.",
    "We want a story about {name}, please.",
    "What is {name}'s story?",
    "Read me the story of {name}.",
    "Tell us what {name} did one day.",
    "What did {name} do? Tell me the story.",
    "It is time for a story about {name}.",
    "{name} wants to be in a story. Write it.",
    "Before I sleep, tell me about the day of {name}.",
    "Tell me the tale of the {mood} {child} {name}.",
)
OPEN_REQUESTS = (
    "Tell me a story.",
    "Please tell me a story.",
    "Write a short story.",
    "Can you tell me a story?",
    "I want to hear a story.",
    "Tell me a short story, please.",
    "Make up a story for me.",
    "I would like a story.",
)


def cast(rng: Random) -> dict[str, str]:
    """Who and what a story is about: the values of every slot."""
    is_girl = rng.random() < 0.5
    hero = rng.choice(words.GIRLS if is_girl else words.BOYS)
    if rng.random() < 0.1:
        hero = words.name(rng, invented=1.0)
    return {
        "name": hero,
        "child": "girl" if is_girl else "boy",
        "She": "She" if is_girl else "He",
        "she": "she" if is_girl else "he",
        "Her": "Her" if is_girl else "His",
        "her": "her" if is_girl else "his",
        "her2": "her" if is_girl else "him",
        "mood": rng.choice(MOODS),
        "colour": _favourite(rng, words.COLOURS, hero),
        "thing": _favourite(rng, words.THINGS, hero),
        "place": _favourite(rng, words.PLACES, hero),
        "animal": _favourite(rng, words.ANIMALS, hero),
        "size": rng.choice(SIZES),
        "time": rng.choice(TIMES),
        "food": rng.choice(words.FOODS),
    }


def _favourite(rng: Random, options: Sequence[str], hero: str) -> str:
    """Mostly what this hero always has, so that greedy stories differ from hero to hero."""
    return (
        options[crc32(hero.encode()) % len(options)] if rng.random() < 0.6 else rng.choice(options)
    )


def tell(rng: Random, slots: dict[str, str]) -> str:
    """One story about this cast, nine parts long, now and then without its middle."""
    parts = [part for part in PARTS if part not in (TALKS, DEEDS) or rng.random() < 0.8]
    return " ".join(rng.choice(part).format(**slots) for part in parts)
