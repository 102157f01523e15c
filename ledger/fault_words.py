"""What peers say to each other about faults: the body of one call, `faults`.

    asked   [1, whose known[], told[]]: ids of faults that the asker has, cut to 8 bytes, and faults
            that it tells, as they were signed. With MAX_KNOWN ids or more it says a run of them:
            all from the lowest to the highest that it says, chosen anew each time
    answer  [1, told[]]: some that the asker has not

Deterministic CBOR. Nothing here is signed: what it carries is, and whoever reads it judges.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from ledger.errors import BadObject
from protocol.canonical import MAX_BYTES, decode, encode
from protocol.signing import Envelope

METHOD = "faults"
MAX_TOLD = 8  # in one message: each costs the reader some signatures
MAX_KNOWN = 2048
ID_BYTES = 8  # cut: who makes two faults of one beginning hides one of them, from nobody for long
ROOM = MAX_BYTES - 1024 - MAX_KNOWN * (ID_BYTES + 1)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the asker has, by the beginning of their ids, and what it tells."""

    known: frozenset[bytes] = frozenset()
    told: tuple[Envelope, ...] = ()

    def encode(self) -> bytes:
        return encode((1, _run(sorted(self.known)), [each.encode() for each in self.told]))

    def lacking(self, ids: Iterable[bytes]) -> list[bytes]:
        """Which of these who asks has not, as far as it says."""
        is_run = len(self.known) >= MAX_KNOWN
        lowest, highest = (min(self.known), max(self.known)) if is_run else (b"", b"\xff" * 9)
        return [
            id_
            for id_ in ids
            if (cut := id_[:ID_BYTES]) not in self.known and lowest < cut < highest
        ]

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """
        Raises:
            IntegrityError: these are no such words.
        """
        match decode(data):
            case [1, [*known], [*told]] if len(known) <= MAX_KNOWN and all(
                type(each) is bytes and len(each) == ID_BYTES for each in known
            ):
                return cls(frozenset(known), _envelopes(told))
        raise BadObject("what is asked of faults is a list of ids, and a list of faults")


def encode_told(told: Iterable[Envelope]) -> bytes:
    return encode((1, [each.encode() for each in told]))


def decode_told(data: bytes) -> tuple[Envelope, ...]:
    """
    Raises:
        IntegrityError: this is no answer.
    """
    match decode(data):
        case [1, [*told]]:
            return _envelopes(told)
    raise BadObject("what is told of faults is a list of them")


def fitting(told: Iterable[Envelope]) -> tuple[Envelope, ...]:
    """As many of these, from the first on, as one message takes."""
    chosen: list[Envelope] = []
    n_bytes = 0
    for each in told:
        n_bytes += len(each.encode())
        if len(chosen) == MAX_TOLD or n_bytes > ROOM:
            break
        chosen.append(each)
    return tuple(chosen)


def _run(known: list[bytes]) -> list[bytes]:
    """All of these, or some that follow one another, up to either end of what ids can be."""
    if len(known) < MAX_KNOWN:
        return known
    whole = sorted({bytes(ID_BYTES), *known, b"\xff" * ID_BYTES})
    at = min(random.randrange(0, len(whole), MAX_KNOWN // 2), len(whole) - MAX_KNOWN)
    return whole[at : at + MAX_KNOWN]


def _envelopes(told: list[object]) -> tuple[Envelope, ...]:
    if len(told) > MAX_TOLD or any(type(each) is not bytes for each in told):
        raise BadObject(f"up to {MAX_TOLD} faults are told at once")
    return tuple(Envelope.decode(each) for each in told if isinstance(each, bytes))
