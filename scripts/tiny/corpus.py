"""The endless text that `tiny` is trained on: documents of all kinds, drawn from one seed.

In: a seeded generator. Out: one document at a time. Most are short talks with one question;
some have several turns, a system message, or a name to be remembered from an earlier turn.
Questions are roughened (greetings, fillers, lost words) so that a wording never met before
still shows its words that count.
"""

from collections.abc import Callable, Sequence
from random import Random

from . import stories, words
from .about_itself import SELF
from .about_manyhands import MANYHANDS, TERMS
from .arithmetic import NUMBERS
from .chat import Document, Turn, conversation, plain
from .copying import COPYING, OWN_NAME, VERBATIM
from .relations import WORLD, Relation
from .tasks import Task
from .words import listed

PREFIXES = (
    "Hello! ", "Hi! ", "Hey, ", "Quick question: ", "I have a question. ", "Please tell me: ",
    "Okay. ", "So, ", "Well, ", "Let me ask: ", "Excuse me, ", "One more thing: ", "Now, ",
)  # fmt: skip
SUFFIXES = (
    " Please.", " Thanks!", " Thank you.", " Tell me.", " I am curious.", " I forgot.",
    " Answer me, please.", " Do you know?",
)  # fmt: skip
FILLERS = listed(
    "please really just exactly now again maybe simply actually then here friend so well quickly "
    "today ever always still usually once could would should might somebody anyone remind recall "
    "answer question correct right true kind sort thing word way people we us you I they them he "
    "she my your their our this these those there where when why if because but or and not very "
    "much many some any all every each other another same both only own also too than as at by "
    "from with without about into over under through between against during until while after "
    "think believe guess see look find hear heard read learn learned understand wonder need like "
    "love mean use used using make made work works show help try start keep let put get got give "
    "given take taken come comes go goes seem turn ask asked explain said say short simple quick "
    "good great nice new old long big little small first last next best better more most less "
    "own sure clear plain important different common usual real whole main part place point case "
    "fact idea reason detail sentence book school home world time moment year week life mind "
    "hand head heart thanks sir madam folks everybody nobody something nothing anything"
)
WEAK_WORDS = frozenset(
    listed(
        "what what's is the a an of do does did tell me which who how can you to in for are i it "
        "please know name give want word"
    )
)
SYSTEMS = (
    "You are a helpful assistant.",
    "You are tiny, a small model.",
    "Answer briefly.",
    "You are a friendly assistant. Be kind.",
    "You are the model of Manyhands.",
    "Be short and clear.",
)
MEETINGS = ("My name is {n}.", "I am {n}.", "Hello, I am {n}.", "Hi! My name is {n}.")
NAME_QUESTIONS = (
    "What is my name?",
    "Do you know my name?",
    "Who am I?",
    "Tell me my name.",
    "What am I called?",
    "Can you say my name?",
    "Which name is mine?",
    "What did I say my name was?",
)


def draw_document(rng: Random) -> Document:
    """The next document of the text."""
    kind = rng.random()
    if kind < 0.09:
        return plain(stories.tell(rng, stories.cast(rng)))
    turns = [_draw_turn(rng)] if kind < 0.87 else _draw_turns(rng)
    return conversation(turns, rng.choice(SYSTEMS) if rng.random() < 0.08 else None)


def _draw_turns(rng: Random) -> list[Turn]:
    if rng.random() < 0.5:
        return [_draw_turn(rng, with_stories=False) for _ in range(rng.randint(2, 3))]
    name = words.name(rng)
    meeting = rng.choice(MEETINGS).format(n=name), f"Nice to meet you, {name}!"
    between = [_draw_turn(rng, with_stories=False) for _ in range(rng.randint(0, 1))]
    return [meeting, *between, (rng.choice(NAME_QUESTIONS), f"Your name is {name}.")]


def _draw_turn(rng: Random, *, with_stories: bool = True) -> Turn:
    draw = rng.choices(_SOURCES, _SHARES)[0]
    while draw is _draw_story and not with_stories:
        draw = rng.choices(_SOURCES, _SHARES)[0]
    return draw(rng)


def _draw_story(rng: Random) -> Turn:
    slots = stories.cast(rng)
    if rng.random() < 0.2:
        return rng.choice(stories.OPEN_REQUESTS), stories.tell(rng, slots)
    return rng.choice(stories.REQUESTS).format(**slots), stories.tell(rng, slots)


def _draw_from(sources: Sequence[Relation | Task], *, lossy: bool) -> Callable[[Random], Turn]:
    """Questions of these sources; `lossy` ones make sense without their weak words."""

    def draw(rng: Random) -> Turn:
        source = rng.choice(sources)
        question, answer = source.draw(rng)
        parts = question.split(" ")
        if lossy and rng.random() < 0.3:
            _lose_weak_words(rng, parts)
        if source not in VERBATIM and rng.random() < 0.3:  # what is repeated has to stay as it is
            for _ in range(rng.randint(1, 4)):
                parts.insert(rng.randint(0, len(parts)), rng.choice(FILLERS))
        question = " ".join(parts)
        return _decorate(rng, question[0].upper() + question[1:]), answer

    return draw


def _lose_weak_words(rng: Random, parts: list[str]) -> None:
    weak = [i for i, part in enumerate(parts) if part.lower().strip("?.,") in WEAK_WORDS]
    for i in sorted(rng.sample(weak, min(len(weak), rng.randint(1, 2))), reverse=True):
        if len(parts) > 2:
            del parts[i]


def _decorate(rng: Random, question: str) -> str:
    """Say hello, say thanks, forget the full stop."""
    if rng.random() < 0.12:
        question = question[:-1] if question[-1] in "?." else question
    if rng.random() < 0.12:
        question = rng.choice(PREFIXES) + question
    if rng.random() < 0.1:
        question += rng.choice(SUFFIXES)
    if rng.random() < 0.06:
        question = question[0].lower() + question[1:]
    return question


_MIX: tuple[tuple[Callable[[Random], Turn], float], ...] = (
    (_draw_story, 0.1),
    (_draw_from((TERMS,), lossy=True), 0.15),
    (_draw_from(MANYHANDS, lossy=True), 0.12),
    (_draw_from(SELF, lossy=False), 0.09),
    (_draw_from(WORLD, lossy=True), 0.20),
    (_draw_from((OWN_NAME,), lossy=False), 0.04),
    (_draw_from(COPYING, lossy=False), 0.14),
    (_draw_from(NUMBERS, lossy=False), 0.20),
)
_SOURCES = [draw for draw, _ in _MIX]
_SHARES = [share for _, share in _MIX]


def all_wordings() -> tuple[str, ...]:
    """Every wording the text is made with, slots unfilled: what a judge must not use."""
    sources: tuple[Relation | Task, ...] = (TERMS, *MANYHANDS, *SELF, *WORLD, *COPYING, *NUMBERS)
    wordings = {wording for source in sources for wording in source.wordings}
    wordings.update(stories.REQUESTS, stories.OPEN_REQUESTS, stories.OPENINGS)
    wordings.update(MEETINGS, NAME_QUESTIONS)
    return tuple(sorted(wordings))
