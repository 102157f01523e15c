"""37: who is blamed, and who is not, where one of a chain's hops cheats now and then, or hides.

The auditor alone: rows are numbers drawn here, what hops open is as they would send it.
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ledger.roots import RowRoot
from ledger.verdicts import MATCH, MISMATCH, UNOPENED
from manyhands.auditing.auditor import Audit, Auditor
from manyhands.auditing.inputs import RowsSent
from manyhands.auditing.references import Rerun
from manyhands.auditing.telling import Session
from manyhands.auditing.tolerance import ROUGH, Tolerance
from protocol.codec import ids_to_bytes
from protocol.errors import ManyhandsError, PeerBusy, PeerRefused
from protocol.fingerprint import sketch
from protocol.messages import TOKEN_BYTES, Span
from protocol.sampling import SamplingParams
from protocol.windows import WINDOW, Window
from protocol.wire import FLOAT32
from scheduler.commitments import Opened

N_ROWS, WIDTH, N_PROMPT = 6 * WINDOW, 64, 4
IDS = tuple(range(N_ROWS + 1))
RNG = np.random.default_rng(0)
RIGHT = {border: RNG.normal(size=(N_ROWS, WIDTH)).astype(np.float32) for border in (1, 2, 3)}
ALL = 1_000_000
ROW_BYTES = 4 * WIDTH


@dataclass
class Hop:
    """One of some blocks. rows: those that it commits to. draws: whether it states any.

    took, sent: rows that it signed for. shown: what it says that it sent; None: nothing.
    """

    border: int
    rows: np.ndarray
    lo: int | None = None
    refuses: ManyhandsError | None = None
    files_late: bool = False
    is_silent: bool = False
    is_committed: bool = True
    start: int = 0
    billed: int = N_ROWS
    cached: int = 0
    ids: Sequence[int] = IDS
    draws: bool = True
    n_last: int = 2
    last_step: int = N_ROWS
    took: np.ndarray | None = None
    sent: np.ndarray | None = None
    shown: np.ndarray | None = None
    asked: list[int] = field(default_factory=list)  # for so many rows, each time
    oid: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    @property
    def commitment(self) -> Any:
        lo = self.border - 1 if self.lo is None else self.lo
        n_blocks, took = self.border - lo, ids_to_bytes(list(self.ids[:N_ROWS]))
        in_root = root_of(took, TOKEN_BYTES) if self.took is None else root_of(self.took)
        meter = SimpleNamespace(
            prefill_tl=N_PROMPT * n_blocks,
            decode_tl=(self.billed - N_PROMPT) * n_blocks,
            cached_tl=self.cached * n_blocks,
        )
        statement = SimpleNamespace(
            fp_root=b"root" if self.is_committed else None,
            meter=meter,
            last_step=self.last_step,
            in_root=in_root,
            out_root=root_of(self.rows if self.sent is None else self.sent),
        )
        return SimpleNamespace(
            peer=f"hop {self.border}",
            salt=b"salt",
            statement=statement,
            envelope=SimpleNamespace(object_id=lambda swarm_id: self.oid),
            terms=SimpleNamespace(payee=bytes([self.border]), layer_lo=lo, layer_hi=self.border),
            hop=self,
        )

    def window(self, index: int) -> Window:
        at, end = max(self.start, WINDOW * index), min(len(self.rows), WINDOW * (index + 1))
        first = max(at + 1, N_PROMPT)
        is_last = self.border == self.n_last and self.draws
        drawn = IDS[first : end + 1] if is_last else ()
        told = sketch(self.rows[at:end]).astype("<f4").tobytes()
        return Window(at, told, first if drawn else 0, drawn)


def root_of(rows: Any, width: int = ROW_BYTES) -> bytes:
    root = RowRoot(b"salt")
    root.add(0, bytes(rows) if width == TOKEN_BYTES else rows.tobytes(), width)
    return root.at(N_ROWS)


async def sent_rows(held: Any, row_bytes: int, most: int) -> bytes:
    held.hop.asked.append(most)
    if held.hop.shown is None:
        raise PeerRefused(held.peer, "others needed their room")
    return bytes(held.hop.shown.tobytes()[: most * row_bytes])


async def open_windows(held: Any, windows: Sequence[int]) -> Opened:
    hop = held.hop
    if hop.is_silent:
        await asyncio.get_running_loop().create_future()
    if hop.refuses is not None:
        error, hop.refuses = hop.refuses, None if hop.files_late else hop.refuses
        raise error
    shown = {index: hop.window(index) for index in windows}
    leaves = {index: SimpleNamespace(window_no=index) for index in windows}
    # Of a leaf no more than its number is looked at behind this door.
    return Opened(hop.start, len(hop.rows), shown, leaves)  # type: ignore[arg-type]


class Right:
    """A reference that is right."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def rerun(self, ids: Sequence[int], border: int, but: Any) -> Rerun:
        return Rerun(RIGHT[border][: len(ids)], (self.name,))

    async def rerun_rows(self, rows: np.ndarray, span: Span, but: Any) -> Rerun:
        return Rerun(made_of(rows, span.start, span.stop), (self.name,))


def made_of(rows: np.ndarray, start: int, stop: int) -> np.ndarray:
    """What blocks make of rows: of the right ones the right ones, of others as much off, at other
    places."""
    off = rows - RIGHT[start][: len(rows)]
    made: np.ndarray = RIGHT[stop][: len(rows)] + np.roll(off, 7 * (stop - start), axis=1)
    return made


class Told:
    """What is said, unsigned."""

    def look(self, session: Any, hop: Any, result: str, stats: Any, leaf: Any = None) -> Any:
        return Look(hop.peer, result, account=hop.terms.payee)

    def fault(self, hop: Any, leaf: Any, stats: Any) -> Any:
        return hop.peer


@dataclass(frozen=True)
class Look:
    peer: str
    result: str
    confirmed: bool = True
    account: bytes = field(default=b"", compare=False)


def likely(ids: Sequence[int], rows: Any) -> np.ndarray:
    """Logits of whose draws each id is the one that follows."""
    logits = np.zeros((len(ids), N_ROWS + 2), np.float32)
    logits[np.arange(len(ids)), np.arange(len(ids)) + 1] = 50.0
    return logits


async def looked_at(
    *hops: Hop,
    rate_ppm: int = ALL,
    n_ids: int = N_ROWS + 1,
    n_blocks: int = 2,
    hop_s: float = 60.0,
    **what: bool,
) -> Audit:
    ends = SimpleNamespace(n_blocks=n_blocks, logits=likely)
    auditor = Auditor(  # its keys sign nothing here, and of the ends two things are used
        SimpleNamespace(),  # type: ignore[arg-type]
        b"",
        ends,  # type: ignore[arg-type]
        [Right("a"), Right("b")],
        Tolerance(ROUGH["float32"], "measured"),
        open_windows,
        RowsSent(sent_rows, FLOAT32, WIDTH),
        rate_ppm=rate_ppm,
        hop_s=hop_s,
    )
    auditor._teller = Told()  # type: ignore[assignment]  # writes down what it is told
    held = tuple(hop.commitment for hop in hops)
    greedy = SamplingParams()
    session = Session(b"m", IDS[:n_ids], N_PROMPT, N_ROWS + 1, held, greedy, **what)
    return await auditor.look(session)


def spoilt(border: int, start: int, stop: int) -> np.ndarray:
    rows = RIGHT[border].copy()
    rows[start:stop] += np.random.default_rng(1).normal(size=(stop - start, WIDTH)) * 0.4
    return rows.astype(np.float32)


def blamed(audit: Audit, peer: str) -> list[Look]:
    return [look for look in audit.looks if look.peer == peer and look.result != MATCH]


async def test_a_hop_that_never_shows_its_work_keeps_nobody_from_looking_at_the_next_one():
    audit = await looked_at(Hop(1, RIGHT[1], is_silent=True), Hop(2, RIGHT[2]), hop_s=0.05)

    assert blamed(audit, "hop 1") == [Look("hop 1", UNOPENED, confirmed=False)]
    assert any("not all windows within 0.05 s" in note for note in audit.notes)
    assert {look.result for look in audit.looks if look.peer == "hop 2"} == {MATCH}


@pytest.mark.parametrize("rate_ppm", [ALL, 200_000, 10_000])
async def test_37_a_hop_behind_one_that_cheats_in_one_window_is_never_blamed(rate_ppm):
    """Through its cache it deviates in all later windows; which are looked at is drawn per hop."""
    cheat, honest = Hop(1, spoilt(1, 32, 64)), Hop(2, spoilt(2, 32, N_ROWS))
    found = 0
    for _ in range(40):
        audit = await looked_at(cheat, honest, rate_ppm=rate_ppm)

        assert set(audit.faults) <= {"hop 1"}
        assert blamed(audit, "hop 2") == []
        found += len(audit.faults)
        cheat.oid, honest.oid = secrets.token_bytes(32), secrets.token_bytes(32)
    assert found or rate_ppm == 10_000


@pytest.mark.parametrize(
    "hidden",
    [
        {"is_committed": False},
        {"refuses": PeerRefused("hop 1", "no")},
        {"refuses": PeerBusy("hop 1", "busy")},
        {"start": N_ROWS - 7},
        None,
    ],
)
async def test_37_who_comes_behind_a_hop_that_shows_nothing_is_never_blamed(hidden):
    cheat = [] if hidden is None else [Hop(1, spoilt(1, 0, N_ROWS), **hidden)]

    audit = await looked_at(*cheat, Hop(2, spoilt(2, 0, N_ROWS)))

    assert audit.faults == []
    assert blamed(audit, "hop 2") == []
    audit = await looked_at(*cheat, Hop(2, RIGHT[2]))
    assert {look.result for look in audit.looks if look.peer == "hop 2"} == {MATCH}


async def test_a_hop_that_files_what_it_ran_a_moment_after_the_answer_is_asked_again():
    audit = await looked_at(Hop(1, RIGHT[1], refuses=PeerRefused("hop 1", "no"), files_late=True))

    assert {look.result for look in audit.looks} == {MATCH}


async def test_37_who_may_have_been_sent_other_rows_than_were_committed_to_is_not_accused():
    """The first hop computes true rows, commits to them, and sends others."""
    audit = await looked_at(Hop(1, RIGHT[1]), Hop(2, spoilt(2, 0, N_ROWS)))

    assert audit.faults == []
    assert [look.confirmed for look in blamed(audit, "hop 2")] == [False]


async def test_37_a_first_hop_that_was_sent_other_ids_than_the_caller_is_not_accused():
    """The last hop tells the caller one answer, and the first hop another."""
    other = (*IDS[:60], 0, *IDS[61:])

    audit = await looked_at(Hop(1, spoilt(1, 60, N_ROWS), ids=other))

    assert audit.faults == []
    assert (await looked_at(Hop(1, spoilt(1, 60, N_ROWS)))).faults == ["hop 1"]


async def test_who_commits_to_less_than_it_billed_does_not_open_its_work():
    rows = RIGHT[1].copy()
    rows[-7:] = 0

    audit = await looked_at(Hop(1, rows, start=N_ROWS - 7))

    assert audit.looks == [Look("hop 1", UNOPENED)]


async def test_where_drafts_were_refused_more_is_billed_than_stands_and_all_of_the_answer_does():
    short = RIGHT[1][: N_ROWS - 20]

    good = await looked_at(Hop(1, RIGHT[1], billed=2 * N_ROWS), was_drafted=True)
    bad = await looked_at(Hop(1, short, billed=2 * N_ROWS), was_drafted=True)

    assert {look.result for look in good.looks} == {MATCH}
    assert bad.looks == [Look("hop 1", UNOPENED)]


async def test_37_with_drafts_what_a_second_hop_worked_on_is_proven_as_without():
    first = Hop(1, RIGHT[1], shown=RIGHT[1])
    liar = Hop(2, spoilt(2, 0, N_ROWS), took=RIGHT[1])

    assert (await looked_at(first, liar, was_drafted=True)).faults == ["hop 2"]
    assert (await looked_at(first, liar, was_mended=True)).faults == []


async def test_who_commits_to_rows_behind_the_answer_is_judged_by_those_of_the_answer():
    good = await looked_at(Hop(1, RIGHT[1]), n_ids=N_ROWS - 9)
    bad = await looked_at(Hop(1, spoilt(1, 0, N_ROWS)), n_ids=N_ROWS - 9)

    assert {look.result for look in good.looks} == {MATCH}
    assert (len(good.looks), bad.faults) == (6, [])
    assert blamed(bad, "hop 1")[0].result == MISMATCH


async def test_a_last_hop_that_is_silent_about_its_draws_commits_to_another_answer():
    """Its rows are right; without its draws nobody could say whether the ids follow from them."""
    said = await looked_at(Hop(2, RIGHT[2], lo=0))
    silent = await looked_at(Hop(2, RIGHT[2], lo=0, draws=False))
    drafted = await looked_at(Hop(2, RIGHT[2], lo=0, draws=False), was_drafted=True)

    assert (said.faults, {look.result for look in said.looks}) == ([], {MATCH})
    assert silent.faults == drafted.faults == ["hop 2"]
