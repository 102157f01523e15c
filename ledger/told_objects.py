"""Objects that all nodes shall end with alike: settlements, and faults; and how two compare them.

In: kinds of object, each with a place where they are kept. Out: the bodies of two calls,
`reconcile` (a message of `reconciliation.py`, about one kind) and `objects` (by their ids), and
what is new, once it is found to hold. Whoever tells too much is heard a part at a time.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from time import monotonic
from typing import Protocol

from ledger.errors import BadObject
from ledger.findings import Findings
from ledger.fold import Allotted
from ledger.policy import Policy
from ledger.reconciliation import Answerer, Asker, IdSet
from ledger.settled import SettledBook, open_settlement
from ledger.spending import Settlement
from protocol.canonical import decode, encode
from protocol.errors import PeerRefused
from protocol.signing import Envelope

RECONCILE, OBJECTS = "reconcile", "objects"
SETTLEMENTS, FAULTS = "settlements", "faults"
MAX_ASKED = 256  # objects at a time
MAX_ANSWER_BYTES = 1 << 20
REFUSED_S, MAX_REFUSED = 600.0, 10_000  # then it is looked at again: credit may stand behind it
MAX_OF_A_PAIR = 16  # settlements of two accounts in one epoch: they may be one person's


class Kept(Protocol):
    """Where objects of one kind lie. It waits for disks."""

    def ids(self) -> IdSet: ...
    def get(self, oid: bytes) -> Envelope | None: ...
    def take(self, envelope: Envelope) -> bool:
        """Keep it; False: it holds, and is not wanted. Raises IntegrityError: it does not."""


class KeptSettlements:
    """Those of everybody that credit stands behind, in epochs that are over and not long past.

    Whoever has two keys can make any number of others: which of them a node would keep would hang
    on whom it heard first, and no two nodes would ever agree.
    """

    def __init__(
        self,
        book: SettledBook,
        policy: Policy,
        allotted: Callable[[bytes], Allotted | None],
        epoch: Callable[[], int],
        own: bytes,
    ) -> None:
        """
        Args:
            allotted: an allotment by its id, if there is credit behind it.
            epoch: which it is now.
            own: our account; what it settled itself is kept whatever others settle.
        """
        self._book, self._policy, self._own = book, policy, own
        self._allotted, self._epoch = allotted, epoch
        self._state, self._ids, self._n_dropped = (-1, 0, 0), IdSet(()), 0

    def ids(self) -> IdSet:
        """Put in order anew only when there are others."""
        state = (len(self._book), self._n_dropped, self._first_epoch())
        if self._state != state:
            self._state, self._ids = state, self._book.ids(self._first_epoch())
        return self._ids

    def get(self, oid: bytes) -> Envelope | None:
        return self._book.get(oid)

    def take(self, envelope: Envelope) -> bool:
        said = open_settlement(envelope, self._book.swarm_id)
        if not self._first_epoch() <= said.epoch < self._epoch():
            return False
        if said.asset not in self._policy.assets or not self._is_funded(said):
            return False
        if self._own not in (said.payer, said.payee):
            kept = self._book.oids(said.payer, said.payee, said.epoch)
            if len(kept) >= MAX_OF_A_PAIR:  # the lowest ids, so that all nodes keep the same ones
                if envelope.object_id(self._book.swarm_id) >= kept[-1]:
                    return False
                self._book.drop(kept[-1])
                self._n_dropped += 1
        self._book.add(envelope)
        return True

    def _first_epoch(self) -> int:
        return self._epoch() - self._policy.retain_epochs - self._policy.holdback_epochs

    def _is_funded(self, said: Settlement) -> bool:
        pair = (said.payer, said.payee, said.asset)
        found = (self._allotted(oid) for oid, _ in said.claims)
        return all(each and (each.payer, each.payee, each.asset) == pair for each in found)


class KeptFaults:
    """Those that convince; `findings.py` judges. They belong to no epoch."""

    def __init__(self, findings: Findings, trusted: Collection[bytes] = ()) -> None:
        """trusted: auditors whose word is kept however many others' is."""
        self._findings, self._trusted = findings, trusted

    def ids(self) -> IdSet:
        return IdSet((0, oid) for oid in self._findings.ids())

    def get(self, oid: bytes) -> Envelope | None:
        return next(iter(self._findings.told([oid])), None)

    def take(self, envelope: Envelope) -> bool:
        return self._findings.add(envelope, trusted=self._trusted)


class ToldObjects:
    """All kinds that a node keeps. It waits for disks."""

    def __init__(self, kinds: Mapping[str, Kept], swarm_id: bytes) -> None:
        self.kinds, self._swarm_id = dict(kinds), swarm_id
        self._refused: dict[bytes, float] = {}  # until when, by `monotonic`

    def asker(self, kind: str, most: int) -> Asker:
        """To compare with a peer; what held and was not wanted lately is asked for by nobody.

        Raises:
            PeerRefused: of a kind that is not kept here.
        """
        now_s = monotonic()
        self._refused = {oid: until for oid, until in self._refused.items() if now_s < until}
        return Asker(self._kept(kind).ids(), most, passed_over=self._refused.keys())

    def compare(self, request: bytes) -> bytes:
        """The answer to a message about one kind.

        Raises:
            IntegrityError: it is none. PeerRefused: of a kind that is not kept here.
        """
        match decode(request):
            case [str() as kind, bytes() as message]:
                return Answerer(self._kept(kind).ids()).answer(message)
        raise BadObject("a comparison is of a kind, and a message")

    def tell(self, request: bytes) -> bytes:
        """Objects by their ids: as many as an answer has room for, in the order asked.

        Raises:
            IntegrityError: these are no ids. PeerRefused: of a kind that is not kept here.
        """
        match decode(request):
            case [str() as kind, [*oids]] if 0 < len(oids) <= MAX_ASKED and all(
                type(oid) is bytes for oid in oids
            ):
                kept = self._kept(kind)
                found = (kept.get(oid) for oid in oids)
                return _framed(each.encode() for each in found if each is not None)
        raise BadObject("objects are asked for by a kind and some ids")

    def take(self, kind: str, wanted: Sequence[bytes], told: bytes) -> int:
        """What a peer told when it was asked for these; how many of them we have now.

        Raises:
            IntegrityError: one does not hold, or was not asked for.
        """
        kept, asked, n = self._kept(kind), set(wanted), 0
        for data in _frames(told):
            envelope = Envelope.decode(data)
            if (oid := envelope.object_id(self._swarm_id)) not in asked:
                raise BadObject("an object that was not asked for, or twice")
            asked.discard(oid)
            if kept.take(envelope):
                n += 1
            elif len(self._refused) < MAX_REFUSED:
                self._refused[oid] = monotonic() + REFUSED_S
        return n

    def _kept(self, kind: str) -> Kept:
        if (kept := self.kinds.get(kind)) is None:
            raise PeerRefused("", f"no {kind[:32]} are kept here")
        return kept


def ask_compare(kind: str, message: bytes) -> bytes:
    return encode((kind, message))


def ask_objects(kind: str, oids: Sequence[bytes]) -> bytes:
    return encode((kind, tuple(oids)))


def _framed(objects: Iterable[bytes]) -> bytes:
    """One after the other, each with its length in four bytes."""
    told = bytearray()
    for data in objects:
        if told and len(told) + len(data) > MAX_ANSWER_BYTES:
            break
        told += len(data).to_bytes(4, "big") + data
    return bytes(told)


def _frames(told: bytes) -> Iterable[bytes]:
    at = 0
    while at < len(told):
        size = int.from_bytes(told[at : at + 4], "big")
        if at + 4 + size > len(told):
            raise BadObject("objects that end before they are whole")
        yield told[at + 4 : at + 4 + size]
        at += 4 + size
