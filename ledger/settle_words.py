"""What a payer asks its payee when the two settle: the bodies of the call `settle`.

    [1, epoch, asset]         -> settlements that the payee signed, and what it credits tabs
    [2, settlement]           -> its oid: both signed, and the payee has it on disk
    [3, epoch, asset, after]  -> what tabs came to, in the order of their ids, from after one on
    [4, receipt]              -> nothing: the payee took in what it lacked
    [5, session_id]           -> the payee's receipt of it

Whose tabs is never asked: the transport proves who calls, and that is the payer. Nothing here is
signed: what it carries is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from ledger.errors import BadObject
from ledger.meter import Meter
from ledger.settling import OwedTab
from protocol.canonical import MAX_BYTES, decode, encode
from protocol.signing import Envelope

METHOD = "settle"
MAX_PAGE = 400  # tabs in one answer, some 100 bytes each
MAX_PROPOSALS = 4  # of 256 allotments each; a settlement has 12 KiB at most
MAX_NOTES = 500
NO_TAB = b""

PROPOSE, SIGNED, TABS, TAKE, GIVE = range(1, 6)


@dataclass(frozen=True, slots=True)
class Asked:
    """Any of the five; what one does not need is empty."""

    kind: int
    epoch: int = 0
    asset: bytes = b""
    data: bytes = b""  # an envelope, a receipt, or a tab's id

    def encode(self) -> bytes:
        match self.kind:
            case 1:
                return encode((self.kind, self.epoch, self.asset))
            case 3:
                return encode((self.kind, self.epoch, self.asset, self.data))
            case _:
                return encode((self.kind, self.data))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """
        Raises:
            IntegrityError: it is none of the five.
        """
        match decode(data):
            case [1 as kind, int() as epoch, bytes() as asset] if kind is not True:
                return cls(kind, epoch, asset)
            case [3 as kind, int() as epoch, bytes() as asset, bytes() as after]:
                return cls(kind, epoch, asset, after)
            case [(2 | 4 | 5) as kind, bytes() as body]:
                return cls(kind, data=body)
        raise BadObject("this is nothing that payers ask when they settle")


@dataclass(frozen=True, slots=True)
class Proposed:
    """What a payee proposes: settlements that it signed, and what it credits tabs."""

    settlements: tuple[Envelope, ...]
    notes: tuple[tuple[bytes, int], ...] = ()  # of tabs, as the settlements have them

    def encode(self) -> bytes:
        return encode((tuple(each.encode() for each in self.settlements), self.notes))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        match decode(data):
            case [[*made], [*notes]] if len(made) <= MAX_PROPOSALS and len(notes) <= MAX_NOTES:
                return cls(tuple(_envelope(each) for each in made), tuple(map(_note, notes)))
        raise BadObject("a payee proposes settlements and credit")


@dataclass(frozen=True, slots=True)
class Page:
    """What tabs came to. is_last: there are no more."""

    tabs: tuple[OwedTab, ...]
    is_last: bool

    @classmethod
    def of(cls, tabs: Sequence[OwedTab], after: bytes) -> Self:
        rest = sorted(tab for tab in tabs if tab.session_id > after)
        return cls(tuple(rest[:MAX_PAGE]), len(rest) <= MAX_PAGE)

    def encode(self) -> bytes:
        rows = tuple(
            (t.session_id, t.allot_oid, t.epoch, t.amount, t.meter.to_fields(), t.credit)
            for t in self.tabs
        )
        return encode((rows, self.is_last))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        match decode(data):
            case [[*rows], bool() as is_last] if len(rows) <= MAX_PAGE:
                tabs = tuple(map(_tab, rows))
                is_in_order = all(a.session_id < b.session_id for a, b in pairwise(tabs))
                if is_in_order and (tabs or is_last):
                    return cls(tabs, is_last)
        raise BadObject("a page has tabs in the order of their ids, each once")


def _tab(row: Any) -> OwedTab:
    match row:
        case [bytes() as id_, bytes() as oid, int() as epoch, int() as amount, meter, int() as off]:
            if len(id_) == 16 and len(oid) == 32 and off <= amount:
                return OwedTab(id_, oid, epoch, amount, Meter.from_fields(meter), off)
    raise BadObject("a tab has an id, an allotment, an epoch, an amount, a meter and a credit")


def _note(row: Any) -> tuple[bytes, int]:
    match row:
        case [bytes() as id_, int() as amount] if len(id_) == 16 and amount is not True:
            return id_, amount
    raise BadObject("credit is of a tab, and an amount")


def _envelope(data: Any) -> Envelope:
    if type(data) is not bytes or len(data) > MAX_BYTES:
        raise BadObject("a settlement travels as bytes")
    return Envelope.decode(data)
