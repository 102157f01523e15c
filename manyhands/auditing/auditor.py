"""Looks at a session's work, hop by hop, and says of each whether it is what its span gives.

In: a session that is over: its ids, and what its hops committed to. Out: looks for the findings of
this home, and where two opinions agree that a hop's outputs are wrong, a fault with all that others
need to judge it.

Hops are looked at in the order of the chain, and no further than the first that deviates: what
comes after it had wrong rows to work on, and is not blamed. Only a hop whose input is proven is
accused (`tracing.py`), and never by a single opinion: it may be the one that runs it again who is
wrong. Where nothing is proven, it is suspected once all that the hops before it did up to there has
been looked at; where one of these cannot be, nobody behind it is.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ledger.fingerprints import MAX_OPENED
from ledger.judging import Leaf
from ledger.looks import Look
from ledger.reputation import UNSEEN, Standing
from ledger.sampling import is_sampled, rate_ppm
from ledger.spending import Fault
from ledger.verdicts import MATCH, MISMATCH, UNOPENED
from manyhands.auditing.coverage import gap, rows_told
from manyhands.auditing.ends import Ends
from manyhands.auditing.inputs import Inputs, RowsSent
from manyhands.auditing.opinions import Heard, Opinions, agreed
from manyhands.auditing.references import Reference
from manyhands.auditing.telling import Session, Teller
from manyhands.auditing.tolerance import Tolerance
from manyhands.auditing.tracing import trace
from protocol.errors import ManyhandsError, PeerBusy, PeerMisbehaved, PeerRefused, PeerUnreachable
from protocol.fp_profile import LEAST_ROWS
from protocol.identity import PeerId
from protocol.signing import SigningKey
from protocol.windows import WINDOW, Window
from scheduler.commitments import Commitment, Opened

HOP_S = 30.0  # in which a hop has to show all of one answer's windows that it is asked for at once
FILES_S = (0.2, 0.5, 1.0)  # between two times that a hop is asked which files what it ran yet
OpenWindows = Callable[[Commitment, Sequence[int]], Awaitable[Opened]]


@dataclass(slots=True)
class Audit:
    """What came of one session. looks: in the order of the chain. faults: at most one. links: from
    hop to hop, where something went wrong and nobody can say whose doing it is."""

    looks: list[Look] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    links: list[tuple[PeerId, PeerId]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was seen besides, for people


@dataclass(frozen=True, slots=True)
class _Seen:
    """A hop that opened windows. good: those that were found honest."""

    hop: Commitment
    opened: Opened
    good: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Told:
    """One session while it is looked at.

    border: the block up to which hops have been. is_built_on: all hops up to there committed to all
    that they passed on, and opened it.
    """

    session: Session
    opinions: Opinions
    inputs: Inputs
    audit: Audit = field(default_factory=Audit)
    hops: list[_Seen] = field(default_factory=list)
    border: int = 0
    is_built_on: bool = True


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
        sent: RowsSent,
        *,
        rate_ppm: int | None = None,
        policy_ppm: int = 10_000,
        standings: Mapping[bytes, Standing] | None = None,
        suspects: frozenset[bytes] = frozenset(),
        hop_s: float = HOP_S,
    ) -> None:
        """references: who is asked first comes first. rate_ppm: of windows, for all; None: by what
        is known of each account."""
        self._swarm_id, self._ends, self._teller = swarm_id, ends, Teller(key, swarm_id)
        self._references, self._allowed = tuple(references), allowed
        self._open_windows, self._sent, self._hop_s = open_windows, sent, hop_s
        self._rate_ppm, self._policy_ppm = rate_ppm, policy_ppm
        self._standings, self._suspects = standings or {}, suspects

    async def look(self, session: Session) -> Audit:
        """Look at the windows of this session that are to be looked at."""
        nonce = secrets.token_bytes(32)  # drawn after all has been stated
        opinions = Opinions(session, self._ends, self._references, self._allowed)
        told = _Told(session, opinions, Inputs(session, self._ends.n_blocks, self._sent))
        for hop in session.hops:
            if not await self._look_at(hop, nonce, told):
                break
        return told.audit

    async def _look_at(self, hop: Commitment, nonce: bytes, told: "_Told") -> bool:
        """Whether it is of use to look at what comes after this hop."""
        told.is_built_on = told.is_built_on and hop.terms.layer_lo == told.border
        told.border = hop.terms.layer_hi
        ran = hop.statement.meter
        if hop.statement.fp_root is None:
            told.audit.notes.append(f"{hop.peer} commits to no fingerprints")
            told.is_built_on = False
            return True
        if not ran.prefill_tl + ran.decode_tl:
            told.is_built_on = False  # others had run all of it before: it committed to nothing
            return True
        try:
            opened = await self._in_time(hop, self._opened(told.session, hop, nonce))
        except ManyhandsError as error:
            self._not_opened(hop, error, told)
            return True
        if missing := gap(told.session, hop, opened):
            self._not_opened(hop, PeerMisbehaved(hop.peer, missing), told)
            return True
        told.hops.append(_Seen(hop, opened))
        goes_on = await self._judge_windows(told, len(told.hops) - 1, opened)
        told.is_built_on = told.is_built_on and not opened.start
        return goes_on

    def _not_opened(self, hop: Commitment, error: ManyhandsError, told: "_Told") -> None:
        is_away = isinstance(error, PeerUnreachable | PeerBusy)
        said = "could not be asked" if is_away else "does not open its work"
        told.audit.notes.append(f"{hop.peer} {said}: {error}")
        look = self._teller.look(told.session, hop, UNOPENED, (0,))
        told.audit.looks.append(replace(look, confirmed=not is_away))
        told.is_built_on = False

    async def _judge_windows(self, told: "_Told", place: int, opened: Opened) -> bool:
        """Whether none of them deviates, nor one of a hop before them."""
        seen = told.hops[place]
        for index, window in sorted(opened.windows.items()):
            n_rows = min(window.stop, told.session.n_rows) - window.start
            if n_rows < LEAST_ROWS or index in seen.good:
                continue
            heard = await told.opinions.of(seen.hop, window)
            if not heard:
                told.audit.notes.append(f"nobody can run blocks up to {told.border} again")
                told.is_built_on = False
                return True
            if not heard[-1].is_honest:
                if not await self._is_traced(told, seen, window, opened.leaves[index]):
                    await self._suspect(told, place, opened.leaves[index], heard)
                return False
            wrong = [each for each in heard if not each.is_honest]
            told.audit.notes += [f"{each.name} deviated, not {seen.hop.peer}" for each in wrong]
            if agreed(heard):
                look = self._teller.look(
                    told.session, seen.hop, MATCH, heard[-1].stats, opened.leaves[index]
                )
                told.audit.looks.append(look)
                seen.good.add(index)
            else:
                told.is_built_on = False
        return True

    async def _is_traced(self, told: "_Told", seen: "_Seen", window: Window, shown: Leaf) -> bool:
        """Whether one hop's proven input says whose doing it is."""
        if seen.opened.start:  # others ran the first rows, whose keys and values it used
            return False
        session = told.session
        doing = await trace(seen.hop, window, session.n_rows, told.inputs, told.opinions)
        if doing is None or doing.is_honest is None:
            return False
        hop, audit, wrong = doing.hop, told.audit, doing.wrong
        leaf = shown if hop is seen.hop else await self._leaf(hop, doing.index)
        if doing.is_honest:
            audit.notes.append(f"{hop.peer} made of its rows what others make of them")
            return True
        is_sure = len(wrong) > 1 and self._allowed.is_measured
        look = self._teller.look(session, hop, MISMATCH, wrong[-1].stats, leaf)
        audit.looks.append(replace(look, confirmed=is_sure))
        if doing.is_sent:  # what it commits to matches, and it sent something else
            matched = hop.terms.payee, MATCH
            audit.looks = [each for each in audit.looks if (each.account, each.result) != matched]
            audit.notes.append(f"{hop.peer} sent other rows than its blocks give")
        if is_sure and leaf is not None:
            stats = [each.stats for each in wrong]
            audit.faults.append(self._teller.fault(hop, leaf, stats))
        elif len(wrong) < 2:
            audit.notes.append(f"{hop.peer} deviates, and nobody can give a second opinion")
        elif not is_sure:
            audit.notes.append(
                f"{hop.peer} deviates, as far as thresholds say that nobody measured"
            )
        return True

    async def _leaf(self, hop: Commitment, index: int) -> Leaf | None:
        """Where a window of a hop's stands, if it committed to it and shows it."""
        if hop.statement.fp_root is None:
            return None
        try:
            return (await self._open_windows(hop, [index])).leaves[index]
        except ManyhandsError:
            return None

    async def _suspect(self, told: "_Told", place: int, leaf: Leaf, heard: Sequence[Heard]) -> None:
        """It deviates: say so, if no hop before it can be the reason."""
        hop, audit = told.hops[place].hop, told.audit
        if why := told.inputs.why_not.get(hop.peer):
            audit.notes.append(f"what {hop.peer} worked on is not proven: {why}")
        if sender := told.inputs.senders.get(hop.peer):
            audit.links.append((sender, hop.peer))
        if not told.is_built_on:
            audit.notes.append(f"{hop.peer} deviates, or who came before it")
            return
        for before in range(place):
            if not await self._is_good_until(told, before, leaf.window_no):
                return
        wrong = [each for each in heard if not each.is_honest]
        look = self._teller.look(told.session, hop, MISMATCH, wrong[-1].stats, leaf)
        audit.looks.append(replace(look, confirmed=False))
        audit.notes.append(f"{hop.peer} deviates, and is suspected only")

    async def _is_good_until(self, told: "_Told", place: int, last: int) -> bool:
        """Whether all windows of a hop up to `last` are found honest: what deviates in one of them
        deviates, through the KV cache, in all later ones of the hops behind it."""
        seen = told.hops[place]
        if last * WINDOW >= seen.opened.stop:  # it was lost before, or says so
            return False
        lacking = [index for index in range(last + 1) if index not in seen.good]
        try:
            asking = self._windows(seen.hop, lacking, seen.opened)
            opened = await self._in_time(seen.hop, asking)
        except ManyhandsError as error:
            self._not_opened(seen.hop, error, told)
            return False
        return await self._judge_windows(told, place, opened) and seen.good.issuperset(lacking)

    async def _in_time(self, hop: Commitment, asking: Awaitable[Opened]) -> Opened:
        """A hop that answers each of many questions just in time holds nobody up for long."""
        try:
            async with asyncio.timeout(self._hop_s):
                return await asking
        except TimeoutError as error:
            late = f"it showed not all windows within {self._hop_s:g} s"
            raise PeerUnreachable(hop.peer, late) from error

    async def _opened(self, session: Session, hop: Commitment, nonce: bytes) -> Opened:
        """The windows that are looked at. The first one asked for says which there are."""
        start, n_rows = rows_told(hop)
        last = (min(session.n_rows, start + n_rows) - 1) // WINDOW
        opened = await self._first_opened(hop, last)
        oid, rate = hop.envelope.object_id(self._swarm_id), self._rate(hop.terms.payee)
        stop = min(session.n_rows, opened.stop)  # what came after the answer nobody knows
        chosen = [
            index
            for index in range(opened.start // WINDOW, (stop - 1) // WINDOW + 1)
            if is_sampled(nonce, oid, index, rate)
        ]
        return await self._windows(hop, chosen, opened)

    async def _first_opened(self, hop: Commitment, last: int) -> Opened:
        """A hop files what it ran when its tab is closed, of which it hears after we had all."""
        for wait_s in FILES_S:
            try:
                return await self._open_windows(hop, [last])
            except PeerRefused:
                await asyncio.sleep(wait_s)
        return await self._open_windows(hop, [last])

    async def _windows(self, hop: Commitment, chosen: Sequence[int], known: Opened) -> Opened:
        """Those of them that are about an answer's rows, `known` or asked for."""
        windows, leaves = dict(known.windows), dict(known.leaves)
        more = [index for index in chosen if index not in windows]
        for at in range(0, len(more), MAX_OPENED):
            rest = await self._open_windows(hop, more[at : at + MAX_OPENED])
            windows |= rest.windows
            leaves |= rest.leaves
        return Opened(known.start, known.stop, {index: windows[index] for index in chosen}, leaves)

    def _rate(self, account: bytes) -> int:
        if self._rate_ppm is not None:
            return self._rate_ppm
        standing = self._standings.get(account, UNSEEN)
        return rate_ppm(standing, self._policy_ppm, is_suspect=account in self._suspects)
