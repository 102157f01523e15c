"""What a client and a node tell each other of what they owe, over all their sessions.

A question and its answer, both short. The client shows who its kin is (a node whose work pays for
what the client uses) and hands in tallies that it signed too. The node says how much the client
owes, what it is lent, and gives its own tally of the two, with some that others have signed. What
is signed is read by `ledger.tally`; the figures are about nobody but the two, whom the transport
proves.
"""

from dataclasses import dataclass
from typing import Self

from protocol.canonical import NotCanonical, decode, encode
from protocol.errors import PeerMisbehaved

METHOD = "owing"
VERSION = 1
MAX_HANDED, MAX_TOLD = 8, 64  # tallies, in a question and in an answer
MAX_SIGNED_BYTES = 1024  # one of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """The question."""

    kin: bytes = b""
    tallies: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        return encode([VERSION, self.kin, self.tallies])

    @classmethod
    def decode(cls, data: bytes, *, sender: str) -> Self:
        """
        Raises:
            PeerMisbehaved: it is none.
        """
        match _fields(data, sender):
            case [kin, [*tallies], *_] if len(tallies) <= MAX_HANDED:
                return cls(kin=_signed(kin, sender), tallies=_all_signed(tallies, sender))
            case _:
                raise PeerMisbehaved(sender, "what it shows of debts has other fields")


NOTHING_TO_SHOW = Showing()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owing:
    """The answer, in ncr. credit_ncr: what the client may owe before it has to settle."""

    owed_ncr: int
    credit_ncr: int
    tally: bytes = b""
    others: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        return encode([VERSION, self.owed_ncr, self.credit_ncr, self.tally, self.others])

    @classmethod
    def decode(cls, data: bytes, *, sender: str) -> Self:
        """
        Raises:
            PeerMisbehaved: it is none.
        """
        match _fields(data, sender):
            case [int() as owed, int() as credit, tally, [*others], *_] if (
                bool not in (type(owed), type(credit)) and len(others) <= MAX_TOLD
            ):
                word, more = _signed(tally, sender), _all_signed(others, sender)
                return cls(owed_ncr=owed, credit_ncr=credit, tally=word, others=more)
            case _:
                raise PeerMisbehaved(sender, "what it says of debts has other fields")


def _fields(data: bytes, sender: str) -> list[object]:
    """Without the version; fields that a later one adds are passed over."""
    try:
        fields = decode(data)
    except NotCanonical as error:
        raise PeerMisbehaved(sender, f"no word of debts: {error}") from error
    return list(fields[1:])


def _all_signed(values: list[object], sender: str) -> tuple[bytes, ...]:
    return tuple(_signed(each, sender) for each in values)


def _signed(value: object, sender: str) -> bytes:
    """What could be an envelope, or nothing; whether it holds is asked elsewhere."""
    if not isinstance(value, bytes) or len(value) > MAX_SIGNED_BYTES:
        raise PeerMisbehaved(sender, "what is signed of debts is short, and bytes")
    return value
