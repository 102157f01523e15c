"""Questions that nobody needs answered, asked as users ask: work that can be looked at without
looking into anybody's.

In: nothing, or a person's own file of prompts. Out: prompts and how they are to be answered, drawn
anew each time. A provider that could tell them apart would work properly for these alone, so give
prompts like those of your users when you have some (`--prompts`), and audit from the home that also
asks real ones: the key is seen.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import UsageError

ASKED = (
    "Explain {what} to {whom}.",
    "What should I know about {what} before I begin?",
    "Write a short note to {whom} about {what}.",
    "I have two hours for {what}. Where do I start?",
    "List what usually goes wrong with {what}.",
    "Why do people disagree about {what}?",
    "Give me three questions that {whom} would ask about {what}.",
    "Summarise what you know of {what} in one paragraph.",
)
WHAT = (
    *("sourdough bread", "a small garden", "compound interest", "learning to swim", "old maps"),
    *("a job interview", "bicycle brakes", "the water cycle", "moving to another city"),
    *("choosing a laptop", "a first marathon", "writing tests", "home insulation", "tides"),
    *("a budget for four", "the history of paper", "keeping bees", "sorting algorithms"),
)
WHOM = ("a colleague", "my neighbour", "a child of ten", "my manager", "a friend", "a new tenant")
ANSWER = 48, 160  # tokens, at least and below
MAX_FILE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Canary:
    """One question. temperature None: the model's own."""

    prompt: str
    max_tokens: int
    temperature: float | None


def draw(prompts: Sequence[str] = ()) -> Canary:
    """One of these prompts, or one made up."""
    made = secrets.choice(ASKED).format(what=secrets.choice(WHAT), whom=secrets.choice(WHOM))
    low, high = ANSWER
    return Canary(
        prompt=secrets.choice(prompts) if prompts else made,
        max_tokens=low + secrets.randbelow(high - low),
        temperature=secrets.choice((None, None, 0.0, 0.7, 1.0)),
    )


def read_prompts(path: Path) -> list[str]:
    """A prompt per line.

    Raises:
        UsageError: it cannot be read, or has none.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text: {error}") from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise UsageError(f"{path} has no prompts", hint="one on each line")
    return prompts
