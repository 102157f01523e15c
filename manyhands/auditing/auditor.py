"""Looks at a session's work, hop by hop, and says of each whether it is what its span gives.

In: a session that is over: its ids, and what its hops committed to. Out: looks for the findings of
this home, and where two opinions agree that a hop's outputs are wrong, a fault with all that others
need to judge it.

Hops are looked at in the order of the chain, and no further than the first that deviates: what
comes after it had wrong rows to work on, and is not blamed. A single opinion is never enough to
accuse anybody: it may be the one that runs it again who is wrong.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ledger.findings import Look
from ledger.fingerprints import MAX_OPENED
from ledger.judging import Leaf
from ledger.reputation import UNSEEN, Standing
from ledger.sampling import is_sampled, rate_ppm
from ledger.spending import Fault
from ledger.verdicts import MATCH, MISMATCH, UNOPENED, parts_of
from manyhands.auditing.ends import Ends
from manyhands.auditing.references import Reference, Rerun
from manyhands.auditing.telling import Session, Teller
from manyhands.auditing.tolerance import Tolerance
from protocol.errors import ManyhandsError, PeerBusy, PeerUnreachable
from protocol.fingerprint import WINDOW, Distance, Window, compare
from protocol.fp_profile import LEAST_ROWS
from protocol.redrawing import shortfall
from protocol.signing import SigningKey
from scheduler.commitments import Commitment, Opened

log = logging.getLogger(__name__)

OpenWindows = Callable[[Commitment, Sequence[int]], Awaitable[Opened]]


@dataclass(frozen=True, slots=True)
class Heard:
    """What one opinion said of one window."""

    is_honest: bool
    distance: Distance
    drawn: float = 0.0  # by how far its worst draw falls short
    by: tuple[str, ...] = ()
    name: str = ""

    @property
    def stats(self) -> tuple[int, ...]:
        told = (self.distance.mean, self.distance.median, self.distance.worst, self.drawn)
        return tuple(map(parts_of, told))


@dataclass(slots=True)
class Audit:
    """What came of one session. looks: in the order of the chain. faults: at most one."""

    looks: list[Look] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was seen besides, for people


class Auditor:
    """Of one model, in one execution profile."""

    def __init__(
        self,
        key: SigningKey,
        swarm_id: bytes,
        ends: Ends,
        references: Sequence[Reference],
        allowed: Tolerance,
        open_windows: OpenWindows,
        *,
        rate_ppm: int | None = None,
        policy_ppm: int = 10_000,
        standings: Mapping[bytes, Standing] | None = None,
        suspects: frozenset[bytes] = frozenset(),
    ) -> None:
        """references: who is asked first comes first. rate_ppm: of windows, for all; None: by what
        is known of each account."""
        self._swarm_id, self._ends, self._teller = swarm_id, ends, Teller(key, swarm_id)
        self._references, self._allowed = tuple(references), allowed
        self._open_windows = open_windows
        self._rate_ppm, self._policy_ppm = rate_ppm, policy_ppm
        self._standings, self._suspects = standings or {}, suspects

    async def look(self, session: Session) -> Audit:
        """Look at the windows of this session that are to be looked at."""
        audit, nonce = Audit(), secrets.token_bytes(32)  # drawn after all has been stated
        for hop in session.hops:
            if not await self._look_at(session, hop, nonce, audit):
                break
        return audit

    async def _look_at(self, session: Session, hop: Commitment, nonce: bytes, audit: Audit) -> bool:
        """Whether what this hop passed on can be built on."""
        if hop.statement.fp_root is None:
            audit.notes.append(f"{hop.peer} commits to no fingerprints")
            return True
        ran = hop.statement.meter
        if not ran.prefill_tl + ran.decode_tl:
            return True  # others had run all of it before: it committed to nothing of its own
        try:
            opened = await self._opened(session, hop, nonce)
        except ManyhandsError as error:
            is_away = isinstance(error, PeerUnreachable | PeerBusy)
            said = "could not be asked" if is_away else "does not open its work"
            audit.notes.append(f"{hop.peer} {said}: {error}")
            look = self._teller.look(session, hop, UNOPENED, (0,))
            audit.looks.append(replace(look, confirmed=not is_away))
            return True
        for index, window in sorted(opened.windows.items()):
            if window.stop - window.start < LEAST_ROWS:
                continue
            heard = await self._opinions(session, hop, window)
            if not heard:
                audit.notes.append(f"nobody can run blocks up to {hop.terms.layer_hi} again")
                return True
            if not self._judge(session, hop, opened.leaves[index], heard, audit):
                return False
        return True

    def _judge(
        self,
        session: Session,
        hop: Commitment,
        leaf: Leaf,
        heard: Sequence[Heard],
        audit: Audit,
    ) -> bool:
        """Whether the window is honest, by what was heard of it."""
        wrong = [each for each in heard if not each.is_honest]
        told = self._teller.look
        if heard[-1].is_honest:
            audit.notes += [f"{each.name} deviated, not {hop.peer}" for each in wrong]
            # One against one: nobody knows yet. Whoever agrees with two is believed.
            if len(wrong) < len(heard) - 1 or not wrong:
                audit.looks.append(told(session, hop, MATCH, heard[-1].stats, leaf))
            return True
        is_sure = len(wrong) > 1 and self._allowed.is_measured
        look = told(session, hop, MISMATCH, wrong[-1].stats, leaf)
        audit.looks.append(replace(look, confirmed=is_sure))
        if is_sure:
            stats = [each.stats for each in wrong]
            audit.faults.append(self._teller.fault(hop, leaf, stats))
        elif len(wrong) > 1:
            audit.notes.append(
                f"{hop.peer} deviates, as far as thresholds say that nobody measured"
            )
        else:
            audit.notes.append(f"{hop.peer} deviates, and nobody can give a second opinion")
        return False

    async def _opened(self, session: Session, hop: Commitment, nonce: bytes) -> Opened:
        """The windows that are looked at. The last one says which there are."""
        last = (session.n_rows - 1) // WINDOW
        opened = await self._open_windows(hop, [last])
        oid, rate = hop.envelope.object_id(self._swarm_id), self._rate(hop.terms.payee)
        chosen = [
            index
            for index in range(opened.start // WINDOW, (opened.stop - 1) // WINDOW + 1)
            if is_sampled(nonce, oid, index, rate)
        ]
        more = [index for index in chosen if index != last]
        for at in range(0, len(more), MAX_OPENED):
            rest = await self._open_windows(hop, more[at : at + MAX_OPENED])
            opened = Opened(
                opened.start,
                opened.stop,
                {**opened.windows, **rest.windows},
                {**opened.leaves, **rest.leaves},
            )
        windows = {index: opened.windows[index] for index in chosen}
        return Opened(opened.start, opened.stop, windows, opened.leaves)

    def _rate(self, account: bytes) -> int:
        if self._rate_ppm is not None:
            return self._rate_ppm
        standing = self._standings.get(account, UNSEEN)
        return rate_ppm(standing, self._policy_ppm, is_suspect=account in self._suspects)

    async def _opinions(self, session: Session, hop: Commitment, window: Window) -> list[Heard]:
        """One that finds it honest is enough; else others are asked until two agree, of whom no
        peer took part in both."""
        heard: list[Heard] = []
        others = {each.peer for each in session.hops}
        for reference in self._references:
            used = {peer for each in heard for peer in each.by}
            rerun = await self._rerun(reference, session, hop, others | used)
            if rerun is None and not heard:  # better with peers of this chain than not at all
                rerun = await self._rerun(reference, session, hop, {hop.peer})
            if rerun is None:
                continue
            heard.append(self._compared(session, hop, window, rerun, reference.name))
            says = [each.is_honest for each in heard]
            if says[0] or says.count(says[-1]) > 1:
                break
        return heard

    async def _rerun(
        self, reference: Reference, session: Session, hop: Commitment, but: set[str]
    ) -> Rerun | None:
        ids = session.ids[: session.n_rows]
        try:
            return await reference.rerun(ids, hop.terms.layer_hi, but)
        except ManyhandsError as error:
            log.warning("a second run failed", extra={"by": reference.name, "error": str(error)})
            return None

    def _compared(
        self, session: Session, hop: Commitment, window: Window, rerun: Rerun, name: str
    ) -> Heard:
        distance = compare(window, rerun.rows[window.start : window.stop])
        limits = self._allowed.limits
        is_honest = limits.at(hop.terms.layer_hi).judge(distance) is not False
        drawn = self._worst_draw(session, window, rerun) if window.draws else 0.0
        is_honest = is_honest and drawn <= limits.drawn
        return Heard(is_honest, distance, drawn, rerun.by, name)

    def _worst_draw(self, session: Session, window: Window, rerun: Rerun) -> float:
        """By how far the drawn ids of a window fall short of what these rows give."""
        first, ids = window.draws_from, session.ids
        if tuple(ids[first : first + len(window.draws)]) != window.draws:
            return float("inf")  # it commits to another answer than it gave
        if session.sampling is None:
            return 0.0
        logits = self._ends.logits(ids[: session.n_rows], rerun.rows)
        return max(
            shortfall(
                logits[first + n - 1],
                session.sampling,
                ids[: first + n],
                claimed,
                n_prompt=session.n_prompt,
            )
            for n, claimed in enumerate(window.draws)
        )
