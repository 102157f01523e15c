"""The pieces that a reply comes in, in the order in which they were said."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Said:
    """Text for whoever asked."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Text that the model wrote for itself."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call of the function `name`; calls of one reply are counted from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of a call's arguments: JSON, as the model wrote it."""

    index: int
    text: str


Part = Said | Thought | CallBegun | CallArguments


def joined(parts: Iterable[Part]) -> list[Part]:
    """The same, with neighbours of one kind made one, and nothing empty."""
    out: list[Part] = []
    for part in parts:
        match (out[-1] if out else None), part:
            case Said(before), Said(text):
                out[-1] = Said(before + text)
            case Thought(before), Thought(text):
                out[-1] = Thought(before + text)
            case CallArguments(index, before), CallArguments(same, text) if index == same:
                out[-1] = CallArguments(index, before + text)
            case _, CallBegun():
                out.append(part)
            case _ if part.text:
                out.append(part)
    return out
