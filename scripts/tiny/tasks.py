"""A task: questions whose answers are worked out, from slots drawn with a seeded generator.

`copying.py` has tasks of names and words to remember, `numbers.py` of counting and adding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from .relations import Slots

Draw = Callable[[Random], tuple[Slots, str]]


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of question: its wordings, and how its slots and its answer are drawn."""

    name: str
    wordings: tuple[str, ...]
    draw_slots: Draw

    def draw(self, rng: Random) -> tuple[str, str]:
        """A question in some wording, and its answer."""
        slots, answer = self.draw_slots(rng)
        return rng.choice(self.wordings).format(**slots), answer
