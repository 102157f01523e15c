"""What sessions that are over sent on from here, for who paid for them and doubts the hop behind.

In: the journal of a tab that ends; nothing is copied, and room that it did not use is given back.
Out: its rows, part by part, to its payer. They lie here for minutes, and those of whose tab
somebody looks at fingerprints the longest: who has a reason to ask for rows has asked for those
before. Where rows are more than there is room for, the payer of whom most lie here loses some, so
that nobody's few rows are flushed by another's many. That they are gone is held against
nobody. Nothing is on disk.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from protocol.errors import IntegrityError, PeerMisbehaved, PeerRefused
from protocol.identity import PeerId
from protocol.journal import Journal
from protocol.sent_rows import PART_BYTES, SentPart, read_request

TAB_BYTES = 4096  # of one tab beside its rows, and of its last page


@dataclass(slots=True)
class _Kept:
    payer: str
    journal: Journal
    until_s: float
    n_bytes: int


class SentRows:
    """Of one node. The handler of the call `protocol.sent_rows.METHOD`.

    retain_s: how long rows can be asked for, once their tab is over or was last looked at.
    max_bytes: of all together; room that was reserved and never written takes none.
    """

    def __init__(
        self, retain_s: float, max_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._retain_s, self._max_bytes, self._clock = retain_s, max_bytes, clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()  # who goes first comes first
        self._of_payer = Counter[str]()  # bytes
        self.n_bytes = 0

    def keep(self, terms_oid: bytes, payer: str, journal: Journal) -> None:
        """From now on nobody else changes it."""
        n_bytes = journal.n_written_bytes + TAB_BYTES
        if journal.is_empty or journal.start or n_bytes > self._max_bytes:
            return
        self._drop(terms_oid)
        journal.end()
        self._kept[terms_oid] = _Kept(payer, journal, self._clock() + self._retain_s, n_bytes)
        self._of_payer[payer] += n_bytes
        self.n_bytes += n_bytes
        self.expire()

    def looked_at(self, terms_oid: bytes) -> None:
        """Its payer audits this tab: keep its rows longer than others'."""
        if (kept := self._kept.get(terms_oid)) is not None:
            kept.until_s = self._clock() + self._retain_s
            self._kept.move_to_end(terms_oid)

    def expire(self) -> None:
        """Let go of what is too old, or too much."""
        now = self._clock()
        while self._kept:
            terms_oid, oldest = next(iter(self._kept.items()))
            if oldest.until_s > now:
                break
            self._drop(terms_oid)
        while self.n_bytes > self._max_bytes:
            ((most, _),) = self._of_payer.most_common(1)
            self._drop(next(oid for oid, kept in self._kept.items() if kept.payer == most))

    def _drop(self, terms_oid: bytes) -> None:
        if (kept := self._kept.pop(terms_oid, None)) is None:
            return
        self.n_bytes -= kept.n_bytes
        self._of_payer[kept.payer] -= kept.n_bytes
        if not self._of_payer[kept.payer]:
            del self._of_payer[kept.payer]

    async def handle(self, peer_id: PeerId, request: bytes) -> bytes:
        """A part of the rows of a tab that the caller paid for.

        Raises:
            PeerMisbehaved: that is no question.
            PeerRefused: none of its tabs, or no longer here, or not these rows.
        """
        try:
            terms_oid, start = read_request(request)
        except IntegrityError as error:
            raise PeerMisbehaved(peer_id, f"no question about rows: {error}") from error
        self.expire()
        kept = self._kept.get(terms_oid)
        if kept is None or kept.payer != peer_id:
            raise PeerRefused("", "no rows that you paid for are here by these terms, or no longer")
        journal = kept.journal
        if start >= journal.length:
            raise PeerRefused("", f"{journal.length} rows were sent, none from {start} on")
        stop = min(journal.length, start + max(1, PART_BYTES // journal.row_bytes))
        part = SentPart(journal.row_bytes, start, journal.length, journal.rows(start, stop))
        return part.encode()
