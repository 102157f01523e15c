"""What a node measured of itself and how it is, as it tells the swarm: all claims, none proven.

Part of an announcement. Each value has a name of its own on the wire and is left out while there is
nothing to say, so that a record grows only by what it holds and older peers read on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from itertools import pairwise
from typing import Any, Self

from protocol.canonical import NotCanonical
from protocol.messages import require

MAX_DECODE_STEPS = 8
MAX_GROUP_CHARS = 64
MAX_WHY_CHARS = 256
ASSUMED_BYTES_PER_S = 12_500_000  # of a way up or down that nobody has measured: 100 Mbit/s


class State(StrEnum):
    """Whether a node takes new sessions."""

    SERVING = "serving"
    DRAINING = "draining"  # it goes: no new sessions, those it has end or are handed over
    MOVING = "moving"  # the same, but it comes back with another span
    PAUSED = "paused"  # the same, but it stays, and comes back with what it has


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Zero and empty mean: not measured, or nothing to say."""

    decode_steps_us: tuple[tuple[int, int], ...] = ()  # (sessions in a step, its time), ascending
    fixed_us: int = 0  # of a step of one session: what does not depend on how many blocks it runs
    visit_us: int = 0  # from a row's arrival to its step, and on from there, where nobody waits
    queue_us: int = 0  # how long a new row waits at present before its step begins
    shared_us: int = 0  # by how much decodes' steps take longer at present than one row alone would
    backlog_us: int = 0  # what the prompts take that wait here at present
    rows_per_s: int = 0  # run lately, prefill and decode
    up_bytes_per_s: int = 0
    down_bytes_per_s: int = 0
    capacity_blocks: int = 0  # of this model, the most it could serve; 0 where it never moves
    position_bytes: int = 0  # of KV room and journal, that a position takes in the whole span
    kept_bytes: int = 0  # of KV room that is free too, but for answers that lost a hop elsewhere
    since_ms: int = 0  # wall clock; when it began to serve, whatever span
    state: State = State.SERVING
    paused: str = ""  # why it gives way to its owner
    back_ms: int = 0  # wall clock; until when, if it knows
    group: str = ""  # a private group whose members alone may use it; empty: anybody
    relay_slots: int = 0  # so many peers it would carry for now, as a relay; 0: it is none
    relayed: tuple[bytes, ...] = ()  # public keys of links that were measured through a relay

    def __post_init__(self) -> None:
        sizes = [size for size, _ in self.decode_steps_us]
        require(len(sizes) <= MAX_DECODE_STEPS, f"more than {MAX_DECODE_STEPS} batch sizes")
        require(all(a < b for a, b in pairwise([0, *sizes])), "batch sizes ascend from 1")
        require(all(us > 0 for _, us in self.decode_steps_us), "a step takes time")
        for field in fields(self):
            value = getattr(self, field.name)
            require(not isinstance(value, int) or value >= 0, f"{field.name} is negative")
        require(
            len(self.paused) <= MAX_WHY_CHARS and self.paused.isprintable(), "a pause has a reason"
        )
        require(
            len(self.group) <= MAX_GROUP_CHARS and self.group.isprintable(),
            "group is not plain text",
        )
        require(all(len(key) == 32 for key in self.relayed), "a relayed link names a public key")

    def extras(self) -> Iterator[tuple[str, Any]]:
        """(name, value) of all that differs from saying nothing."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if field.name == "decode_steps_us":  # flat: an announcement nests no deeper
                value = tuple(number for step in value for number in step)
            yield field.name, str(value) if isinstance(value, State) else value

    @classmethod
    def read(cls, extras: Mapping[str, Any]) -> Self:
        """From a stranger's extras; those of other names are passed over.

        Raises:
            NotCanonical: a value is of another kind.
            PeerMisbehaved: a value is out of bounds.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in extras:
                values[field.name] = _read(field.name, field.default, extras[field.name])
        return cls(**values)


NOT_MEASURED = Measured()


def _read(name: str, default: object, value: Any) -> object:
    if isinstance(default, State):
        # A state that a later version added still is one in which a peer does not simply serve.
        try:
            return State(value)
        except ValueError:
            return State.DRAINING
    match name, value:
        case "decode_steps_us", [*numbers] if len(numbers) % 2 == 0 and _all_are(int, numbers):
            return tuple(zip(numbers[::2], numbers[1::2], strict=True))
        case "relayed", [*keys] if _all_are(bytes, keys):
            return tuple(keys)
        case _ if type(value) is type(default):
            return value
        case _:
            raise NotCanonical(f"{name} is of another kind")


def _all_are(kind: type, values: list[Any]) -> bool:
    return all(type(value) is kind for value in values)
