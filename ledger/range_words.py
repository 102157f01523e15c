"""What two parties tell each other of ranges of their ids, in bytes (`reconciliation.py` says why).

A message is `[1, [range, …]]`: ranges one after the other from the first key there can be on, each
with its upper bound, and what is told of it: nothing, a fingerprint, keys, or the difference.
"""

from dataclasses import dataclass
from typing import Any

from ledger.errors import BadObject
from protocol.canonical import decode, encode

KEY_BYTES = 8 + 32  # epoch, object id
SUM_BYTES = 16
START, END = b"", b"\xff"  # no key is above: an epoch is below 2^63

SUM, IDS, DIFF = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Range:
    """What one side says of the keys in `[lower, upper)`; kind 0: nothing."""

    lower: bytes
    upper: bytes
    kind: int = 0
    told: bytes = (
        b""  # a fingerprint, or keys one after the other: its own, or those the other lacks
    )
    wanted: bytes = b""  # keys that it lacks itself

    @property
    def n_bytes(self) -> int:
        """At most, in a message."""
        return len(self.upper) + len(self.told) + len(self.wanted) + 12


class Message:
    """Ranges one after the other from the first key on; what lies between them is passed over."""

    def __init__(self) -> None:
        self._ranges: list[tuple[Any, ...]] = []
        self._upper, self._is_open = START, False

    def add(self, each: Range) -> None:
        if each.lower != self._upper:
            self._pass_over(each.lower)
        if each.kind == 0:
            self._pass_over(each.upper)
            return
        told = (each.told, each.wanted) if each.kind == DIFF else (each.told,)
        self._ranges.append((each.upper, each.kind, *told))
        self._upper, self._is_open = each.upper, False

    def _pass_over(self, upper: bytes) -> None:
        if self._is_open:
            self._ranges.pop()
        self._ranges.append((upper,))
        self._upper, self._is_open = upper, True

    def encode(self) -> bytes:
        return encode((1, self._ranges))


def read_message(data: bytes) -> list[Range]:
    """
    Raises:
        IntegrityError: it is no message.
    """
    match decode(data):
        case [int() as version, [_, *_] as ranges] if version is not True and version == 1:
            made, lower = [], START
            for fields in ranges:
                made.append(_range(lower, fields))
                lower = made[-1].upper
            return made
    raise BadObject("ranges are told as a version and a list")


def _range(lower: bytes, fields: Any) -> Range:
    match fields:
        case [bytes() as upper]:
            told = Range(lower, upper)
        case [bytes() as upper, 1, bytes() as sum_] if len(sum_) == SUM_BYTES:
            told = Range(lower, upper, SUM, sum_)
        case [bytes() as upper, 2, bytes() as keys]:
            told = Range(lower, upper, IDS, keys)
        case [bytes() as upper, 3, bytes() as keys, bytes() as wanted]:
            told = Range(lower, upper, DIFF, keys, wanted)
        case _:
            raise BadObject("a range has a bound, a kind, and what is told of it")
    if not lower < told.upper <= END or len(told.upper) > KEY_BYTES:
        raise BadObject("ranges stand in order, up to the last key there can be")
    if told.kind in (IDS, DIFF):
        for keys in (told.told, told.wanted):
            _check_keys(keys, told)
    return told


def _check_keys(told: bytes, within: Range) -> None:
    keys = keys_of(told)
    if len(told) % KEY_BYTES or keys != sorted(set(keys)):
        raise BadObject("keys stand in order, each once")
    if keys and not (within.lower <= keys[0] and keys[-1] < within.upper):
        raise BadObject("keys lie within the range they are told of")


def keys_of(told: bytes) -> list[bytes]:
    return [told[at : at + KEY_BYTES] for at in range(0, len(told), KEY_BYTES)]
