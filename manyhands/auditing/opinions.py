"""What others make of a hop's work: ids, or the rows that it was sent, run again elsewhere.

In: a window that it committed to, or rows that it sent, and who can run its blocks again. Out: what
each of them says. Rows of one border are asked for once of each, however many windows are looked
at.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ledger.verdicts import parts_of
from manyhands.auditing.ends import Ends
from manyhands.auditing.references import Reference, Rerun
from manyhands.auditing.telling import Session
from manyhands.auditing.tolerance import Tolerance
from protocol.errors import ManyhandsError
from protocol.fingerprint import Distance, compare, compare_rows
from protocol.messages import Span
from protocol.redrawing import shortfall
from protocol.windows import BUCKETS, Window
from protocol.wire import Rows
from scheduler.commitments import Commitment

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sent:
    """Rows from `start` on that a hop signed for sending."""

    start: int
    rows: Rows

    @property
    def stop(self) -> int:
        return self.start + len(self.rows)


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


def agreed(heard: Sequence[Heard]) -> bool | None:
    """Whether it is honest; None: nobody says so, or it is one against one.

    An only opinion is believed when it finds nothing wrong. Whoever agrees with two is believed.
    """
    if not heard or (len(heard) == 2 and heard[0].is_honest != heard[1].is_honest):
        return None
    return heard[-1].is_honest


class Opinions:
    """Of one session's hops. references: who is asked first comes first."""

    def __init__(
        self, session: Session, ends: Ends, references: Sequence[Reference], allowed: Tolerance
    ) -> None:
        self._session, self._ends = session, ends
        self._references, self._allowed = references, allowed
        self._made: dict[tuple[int, int, bool], Rerun | None] = {}

    async def of(
        self, hop: Commitment, shown: Window | Sent, given: Rows | None = None
    ) -> list[Heard]:
        """One that finds it honest is enough; else others are asked until two agree, of whom no
        peer took part in both.

        given: what the hop was sent, which is run through its blocks; None: the ids, through all
        blocks up to there. Of one hop always the same.
        """
        heard: list[Heard] = []
        others = {each.peer for each in self._session.hops}
        for number, reference in enumerate(self._references):
            used = {peer for each in heard for peer in each.by}
            key = hop.terms.layer_hi, number, given is not None
            if key not in self._made:
                rerun = await self._rerun(reference, hop, given, others | used)
                if rerun is None and not heard:  # better with peers of this chain than not at all
                    rerun = await self._rerun(reference, hop, given, {hop.peer})
                self._made[key] = rerun
            rerun = self._made[key]
            if rerun is None or used & {*rerun.by}:
                continue
            compared = await asyncio.to_thread(self._compared, hop, shown, rerun, reference.name)
            heard.append(compared)
            says = [each.is_honest for each in heard]
            if says[0] or says.count(says[-1]) > 1:
                break
        return heard

    async def _rerun(
        self, reference: Reference, hop: Commitment, given: Rows | None, but: set[str]
    ) -> Rerun | None:
        ids, terms = self._session.ids[: self._session.n_rows], hop.terms
        try:
            if given is None:
                return await reference.rerun(ids, terms.layer_hi, but)
            return await reference.rerun_rows(given, Span(terms.layer_lo, terms.layer_hi), but)
        except ManyhandsError as error:
            log.warning("a second run failed", extra={"by": reference.name, "error": str(error)})
            return None

    def _compared(self, hop: Commitment, shown: Window | Sent, rerun: Rerun, name: str) -> Heard:
        limits = self._allowed.limits
        thresholds = limits.at(hop.terms.layer_hi)
        if isinstance(shown, Sent):
            distance = compare_rows(shown.rows, rerun.rows[shown.start : shown.stop])
            is_honest = thresholds.judge(distance) is not False
            return Heard(is_honest, distance, by=rerun.by, name=name)
        window = _within(shown, self._session.n_rows)
        distance = compare(window, rerun.rows[window.start : window.stop])
        is_honest = thresholds.judge(distance) is not False
        drawn = self._worst_draw(hop, window, rerun)
        is_honest = is_honest and drawn <= limits.drawn
        return Heard(is_honest, distance, drawn, rerun.by, name)

    def _worst_draw(self, hop: Commitment, window: Window, rerun: Rerun) -> float:
        """By how far the drawn ids of a window fall short of what these rows give."""
        session, ids, first = self._session, self._session.ids, window.draws_from
        if not session.was_mended and hop.terms.layer_hi == self._ends.n_blocks:
            # It drew all of the answer, and cannot keep silent about any of it.
            first = max(window.start + 1, session.n_prompt)
            owed = ids[first : window.stop + 1]
            is_said = window.draws == owed and (not owed or window.draws_from == first)
        else:
            is_said = ids[first : first + len(window.draws)] == window.draws
        if not is_said:
            return float("inf")  # it commits to another answer than it gave, or to none
        if not window.draws:
            return 0.0
        if session.sampling is None:
            return 0.0
        logits = self._ends.logits(ids[: len(rerun.rows)], rerun.rows)
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


def _within(window: Window, n_rows: int) -> Window:
    """What of it is about an answer of `n_rows` rows: nobody knows what was run after it."""
    n = n_rows - window.start
    if n_rows >= window.stop:
        return window
    drawn = window.draws[: max(0, n_rows + 1 - window.draws_from)]
    sketches = window.sketches[: n * 4 * BUCKETS]
    return Window(window.start, sketches, window.draws_from if drawn else 0, drawn)
