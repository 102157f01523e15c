"""Numbers to count, to add and to take away, in digits and in words; answers are in digits."""

from random import Random

from . import words
from .relations import Slots
from .tasks import Task


def _number(value: int, rng: Random, share_of_words: float = 0.4) -> str:
    return words.NUMBER_WORDS[value] if rng.random() < share_of_words else str(value)


def _both(rng: Random, a: int, b: int) -> tuple[str, str]:
    share = rng.choice((0.0, 1.0))  # two numbers of one question are written alike
    return _number(a, rng, share), _number(b, rng, share)


def _add(rng: Random) -> tuple[Slots, str]:
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    x, y = _both(rng, a, b)
    return {"x": x, "y": y}, f"{a} + {b} = {a + b}."


ADD = Task(
    "add",
    (
        "What is {x} plus {y}?",
        "What is {x} + {y}?",
        "{x} + {y} = ?",
        "{x} plus {y}?",
        "How much is {x} plus {y}?",
        "How much is {x} + {y}?",
        "Add {x} and {y}.",
        "Add {y} to {x}.",
        "What do you get when you add {x} and {y}?",
        "What is the sum of {x} and {y}?",
        "Tell me the sum of {x} and {y}.",
        "Calculate {x} + {y}.",
        "Please add {x} and {y}.",
        "{x} and {y} make what?",
        "What are {x} and {y} together?",
        "Work out {x} + {y}.",
        "What is {x} added to {y}?",
        "Let us add {x} and {y}.",
        "Find {x} + {y}.",
        "Give me {x} plus {y}.",
        "Put {x} and {y} together.",
        "{x} and {y} is how much?",
        "What number is {x} plus {y}?",
        "How many are {x} and {y}?",
        "When I add {x} to {y}, what is it?",
        "Sum up {x} and {y}.",
    ),
    _add,
)


def _subtract(rng: Random) -> tuple[Slots, str]:
    a = rng.randint(0, 10)
    b = rng.randint(0, a)
    x, y = _both(rng, a, b)
    return {"x": x, "y": y}, f"{a} - {b} = {a - b}."


SUBTRACT = Task(
    "subtract",
    (
        "What is {x} minus {y}?",
        "What is {x} - {y}?",
        "{x} - {y} = ?",
        "{x} minus {y}?",
        "How much is {x} minus {y}?",
        "How much is {x} - {y}?",
        "Take {y} from {x}.",
        "Subtract {y} from {x}.",
        "What is left when you take {y} from {x}?",
        "What is {x} less {y}?",
        "Take {y} away from {x}.",
        "Calculate {x} - {y}.",
        "Please subtract {y} from {x}.",
        "Work out {x} - {y}.",
        "Let us subtract {y} from {x}.",
        "Find {x} - {y}.",
        "Give me {x} minus {y}.",
        "What number is {x} minus {y}?",
        "{x} take away {y} is what?",
        "From {x} take {y}. What is left?",
        "How much stays when {y} goes from {x}?",
        "What is the difference of {x} and {y}?",
        "If I take {y} from {x}, how much is left?",
    ),
    _subtract,
)


def _gain(rng: Random) -> tuple[Slots, str]:
    a, b = rng.randint(2, 10), rng.randint(2, 10)
    x, y = _both(rng, a, b)
    fruit = rng.choice(words.FRUITS)
    slots = {"x": x, "y": y, "f": fruit, "n": words.name(rng, invented=0.1)}
    return slots, f"{a} + {b} = {a + b}. That makes {a + b} {fruit}."


GAIN = Task(
    "gain",
    (
        "I have {x} {f} and get {y} more. How many {f} do I have?",
        "{n} has {x} {f} and gets {y} more. How many {f} does {n} have?",
        "There are {x} {f}. I add {y} more. How many {f} are there?",
        "{n} has {x} {f} and finds {y} more. How many {f} is that?",
        "I have {x} {f}. You give me {y} more. How many {f} do I have now?",
        "{n} had {x} {f} and bought {y} more. How many {f} now?",
        "{n} has {x} {f}. Then {n} gets {y} more. How many {f} does {n} have?",
        "First there were {x} {f}, then {y} more came. How many {f} are there now?",
        "We have {x} {f} and {n} brings {y} more. How many {f} do we have?",
        "{x} {f} and {y} more {f}: how many {f} are there?",
    ),
    _gain,
)


def _loss(rng: Random) -> tuple[Slots, str]:
    a = rng.randint(3, 10)
    b = rng.randint(1, a - 2)
    x, y = _both(rng, a, b)
    fruit = rng.choice(words.FRUITS)
    slots = {"x": x, "y": y, "f": fruit, "n": words.name(rng, invented=0.1)}
    return slots, f"{a} - {b} = {a - b}. That leaves {a - b} {fruit}."


LOSS = Task(
    "loss",
    (
        "I have {x} {f} and lose {y}. How many {f} do I have?",
        "{n} has {x} {f} and gives away {y}. How many {f} are left?",
        "There are {x} {f}. I take away {y}. How many {f} are left?",
        "{n} has {x} {f} and loses {y}. How many {f} does {n} have?",
        "I have {x} {f}. You take {y} of them. How many {f} are left?",
        "{n} had {x} {f} and lost {y}. How many {f} are left?",
        "{n} has {x} {f}. Then {n} sells {y}. How many {f} are left?",
        "There were {x} {f}, but {y} are gone. How many {f} are left?",
        "We have {x} {f} and {n} takes {y}. How many {f} do we have?",
        "From {x} {f}, {n} took {y}. How many {f} stay?",
    ),
    _loss,
)


def _count_up(rng: Random) -> tuple[Slots, str]:
    start = 1 if rng.random() < 0.5 else rng.randint(0, 15)
    stop = rng.randint(start + 2, min(start + 10, 20))
    x, y = _both(rng, start, stop)
    return {"x": x, "y": y}, ", ".join(map(str, range(start, stop + 1))) + "."


COUNT = Task(
    "count",
    (
        "Count from {x} to {y}.",
        "Please count from {x} to {y}.",
        "Can you count from {x} to {y}?",
        "Count up from {x} to {y}.",
        "Say the numbers from {x} to {y}.",
        "List the numbers from {x} to {y}.",
        "Write the numbers from {x} to {y}.",
        "Start at {x} and count to {y}.",
        "What are the numbers from {x} to {y}?",
        "Count on from {x} until {y}.",
        "I want the numbers from {x} to {y}.",
        "Begin with {x} and count until {y}.",
        "Let us count from {x} to {y}.",
        "Give me all numbers from {x} to {y}.",
        "Which numbers go from {x} to {y}?",
        "Please say every number from {x} up to {y}.",
    ),
    _count_up,
)


def _count_to(rng: Random) -> tuple[Slots, str]:
    stop = rng.randint(3, 15)
    return {"y": _number(stop, rng)}, ", ".join(map(str, range(1, stop + 1))) + "."


COUNT_TO = Task(
    "count to",
    (
        "Count to {y}.",
        "Please count to {y}.",
        "Can you count to {y}?",
        "Count up to {y}.",
        "Say the numbers up to {y}.",
        "I want you to count to {y}.",
        "Let us count to {y}.",
        "Count until {y}.",
        "Count all the way to {y}.",
        "Please count up to {y} now.",
        "Show me how you count to {y}.",
        "Count up until you reach {y}.",
    ),
    _count_to,
)


def _count_down(rng: Random) -> tuple[Slots, str]:
    start = rng.randint(3, 12)
    return {"x": _number(start, rng)}, ", ".join(map(str, range(start, 0, -1))) + "."


COUNT_DOWN = Task(
    "count down",
    (
        "Count down from {x}.",
        "Count backwards from {x}.",
        "Please count down from {x}.",
        "Can you count backwards from {x}?",
        "Count down from {x} to 1.",
        "Start at {x} and count down.",
        "Count from {x} down to one.",
        "Let us count down from {x}.",
        "Count in reverse from {x}.",
        "Say the numbers backwards from {x}.",
        "Begin at {x} and count backwards.",
        "I want you to count down from {x}.",
    ),
    _count_down,
)


def _next_number(rng: Random) -> tuple[Slots, str]:
    value = rng.randint(0, 19)
    return {"x": _number(value, rng)}, f"After {value} comes {value + 1}."


NEXT_NUMBER = Task(
    "next number",
    (
        "What comes after {x}?",
        "Which number comes after {x}?",
        "What number comes after {x}?",
        "Which number follows {x}?",
        "Tell me the number after {x}.",
        "What is the next number after {x}?",
        "Name the number that comes after {x}.",
        "Which number is right after {x}?",
        "What number follows {x}?",
        "{x} is followed by which number?",
        "Give me the number after {x}.",
    ),
    _next_number,
)

NUMBERS = (ADD, ADD, ADD, SUBTRACT, SUBTRACT, GAIN, LOSS, COUNT, COUNT_TO, COUNT_DOWN, NEXT_NUMBER)
