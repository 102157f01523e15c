"""37: any hop can be found at fault, by rows that it signed for, and no honest one can be framed.

The auditor alone, as in `test_audit_order.py`: what hops sign, open and show is as they would send
it. In a real swarm: `test_audits.py`.
"""

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.verdicts import MATCH, MISMATCH
from manyhands.auditing.inputs import Inputs, RowsSent
from manyhands.auditing.telling import Session
from protocol.fingerprint import sketch
from protocol.wire import FLOAT32
from tests.test_audit_order import (
    IDS,
    N_PROMPT,
    N_ROWS,
    RIGHT,
    WIDTH,
    Hop,
    blamed,
    looked_at,
    made_of,
    spoilt,
)


def first(sent=None, **more) -> Hop:
    """Of three blocks. It commits to right rows; what it sends are these, or others."""
    sent = RIGHT[1] if sent is None else sent
    return Hop(1, RIGHT[1], **{"sent": sent, "shown": sent, "n_last": 3} | more)


def second(took, rows=None, **more) -> Hop:
    """It makes of what it took what its block makes of it, or other rows."""
    rows = made_of(took, 1, 2) if rows is None else rows
    return Hop(2, rows, **{"took": took, "sent": rows, "shown": rows, "n_last": 3} | more)


def third(took, rows=None, **more) -> Hop:
    rows = made_of(took, 2, 3) if rows is None else rows
    return Hop(3, rows, **{"took": took, "n_last": 3} | more)


def unseen(border: int) -> np.ndarray:
    """Wrong rows whose sketches are those of the right ones."""
    off = np.zeros((N_ROWS, WIDTH), np.float32)
    signs = sketch(np.eye(WIDTH, dtype=np.float32)).sum(axis=1)  # of each place
    off[:, 0], off[:, 1] = 3.0, -3.0 * signs[0] / signs[1]  # two places of one bucket
    return RIGHT[border] + off


async def test_37_a_middle_hop_that_cheats_is_at_fault_when_its_sender_shows_what_it_sent():
    wrong = spoilt(2, 32, 96)

    audit = await looked_at(first(), second(RIGHT[1], wrong), third(wrong), n_blocks=3)

    assert audit.faults == ["hop 2"]
    assert [look.confirmed for look in blamed(audit, "hop 2")] == [True]
    assert blamed(audit, "hop 1") == blamed(audit, "hop 3") == []


async def test_37_a_last_hop_that_cheats_is_at_fault():
    audit = await looked_at(
        first(), second(RIGHT[1]), third(RIGHT[2], spoilt(3, 0, N_ROWS)), n_blocks=3
    )

    assert audit.faults == ["hop 3"]


@pytest.mark.parametrize("make", [lambda: spoilt(1, 32, N_ROWS), lambda: unseen(1)])
async def test_37_who_sends_other_rows_than_it_computed_is_at_fault_and_not_who_worked_on_them(
    make,
):
    """It commits to right rows, or to rows with the very sketches of the right ones."""
    sent = make()

    audit = await looked_at(first(sent), second(sent), third(made_of(sent, 1, 2)), n_blocks=3)

    assert audit.faults == ["hop 1"]
    assert blamed(audit, "hop 2") == blamed(audit, "hop 3") == []
    assert "hop 1 sent other rows than its blocks give" in audit.notes
    assert {look.result for look in audit.looks if look.peer == "hop 1"} == {MISMATCH}


async def test_37_so_it_is_two_hops_back():
    """The middle hop commits to right rows and sends others: who deviates first is the last."""
    sent = unseen(2)

    audit = await looked_at(
        first(), second(RIGHT[1], RIGHT[2], sent=sent, shown=sent), third(sent), n_blocks=3
    )

    assert audit.faults == ["hop 2"]
    assert blamed(audit, "hop 3") == []


async def test_37_a_hop_that_commits_to_nothing_and_sends_wrong_rows_is_seen_by_its_rows():
    sent = spoilt(1, 0, N_ROWS)

    audit = await looked_at(
        first(sent, is_committed=False), second(sent), third(made_of(sent, 1, 2)), n_blocks=3
    )

    assert audit.faults == []  # a fault is about a window that was committed to
    assert [look.confirmed for look in blamed(audit, "hop 1")] == [True]
    assert blamed(audit, "hop 2") == []


async def test_37_where_nobody_shows_the_rows_between_two_hops_the_second_is_suspected_only():
    wrong = spoilt(2, 32, 96)

    audit = await looked_at(first(shown=None), second(RIGHT[1], wrong), third(wrong), n_blocks=3)

    assert audit.faults == []
    assert [look.confirmed for look in blamed(audit, "hop 2")] == [False]
    assert any("does not show what it sent" in note for note in audit.notes)
    assert audit.links == [("hop 1", "hop 2")]  # its friend may sit before it: not again


@pytest.mark.parametrize("liar", [1, 2])
async def test_37_rows_are_asked_for_by_what_the_session_had_room_for_not_by_what_hops_sign(liar):
    """Else one hop that signs for 2^62 of them has the auditor take in what it likes to send."""
    wrong, steps = spoilt(2, 32, 96), [N_ROWS, N_ROWS]
    steps[liar - 1] = 1 << 62
    sender = first(last_step=steps[0])

    audit = await looked_at(
        sender, second(RIGHT[1], wrong, last_step=steps[1]), third(wrong), n_blocks=3
    )

    assert sender.asked == ([N_ROWS + 1] if liar == 1 else [])
    assert audit.faults == (["hop 2"] if liar == 1 else [])  # what it took in, it signed for
    assert audit.links == ([] if liar == 1 else [("hop 1", "hop 2")])


async def test_37_where_two_ends_of_a_link_signed_for_different_rows_neither_is_accused():
    """Whichever of them lies."""
    sent, told = spoilt(1, 0, N_ROWS), RIGHT[1]
    wrong = spoilt(2, 0, N_ROWS)
    framed = [first(told), second(sent), third(made_of(sent, 1, 2))]
    liar = [first(told), replace(second(told, wrong), took=sent), third(wrong)]

    for hops in (framed, liar):
        audit = await looked_at(*hops, n_blocks=3)

        assert audit.faults == []
        assert not any(look.confirmed for look in blamed(audit, "hop 2"))
        assert audit.links == [("hop 1", "hop 2")]


async def test_37_a_sender_that_signs_other_rows_than_it_shows_protects_no_friend_behind_it():
    wrong = spoilt(2, 0, N_ROWS)

    audit = await looked_at(
        first(spoilt(1, 0, 9), shown=RIGHT[1]), second(RIGHT[1], wrong), third(wrong), n_blocks=3
    )

    assert audit.faults == ["hop 2"]


async def test_37_rows_that_bring_honest_processors_apart_accuse_nobody_who_worked_on_them():
    """They are far from the right ones: what two references make of them says nothing."""
    sent = unseen(1)

    audit = await looked_at(
        first(sent), second(sent, spoilt(2, 0, N_ROWS)), third(RIGHT[2]), n_blocks=3
    )

    assert audit.faults == ["hop 1"]
    assert blamed(audit, "hop 2") == []


LIES = st.sampled_from(["computes", "sends", "hides", "signs in", "signs out", "shows", "refuses"])


@given(st.lists(st.frozensets(LIES, max_size=3), min_size=3, max_size=3))
@settings(max_examples=60, deadline=None)
async def test_37_whatever_hops_lie_about_no_honest_one_is_at_fault(lies):
    hops, took = [], RIGHT[1]
    for place, lied in enumerate(lies):
        border = place + 1
        rows = RIGHT[1] if not place else made_of(took, place, border)
        noise = spoilt(border, 32 * place, 96) - RIGHT[border]
        rows = rows + noise if "computes" in lied else rows
        sent = rows + noise if "sends" in lied else rows
        hops.append(
            Hop(
                border,
                rows,
                n_last=3,
                is_committed="hides" not in lied,
                took=None if not place else took + 1 if "signs in" in lied else took,
                sent=sent + 1 if "signs out" in lied else sent,
                shown=None if "refuses" in lied else sent + 1 if "shows" in lied else sent,
            )
        )
        took = sent

    audit = await looked_at(*hops, n_blocks=3, rate_ppm=400_000)

    honest = {f"hop {place + 1}" for place, lied in enumerate(lies) if not lied}
    assert honest.isdisjoint(audit.faults)
    # A suspicion may be of who works behind a liar, a certainty may not.
    assert not any(
        look.confirmed and look.result != MATCH for look in audit.looks if look.peer in honest
    )


async def test_rows_are_hashed_and_decoded_beside_the_loop_that_others_wait_for():
    """Of a long answer that takes a second; a gateway has other answers to send meanwhile."""
    threads = set()

    class Watched(bytes):
        def __getitem__(self, place):
            threads.add(threading.get_ident())
            return super().__getitem__(place)

    async def fetch(*_):
        return Watched(RIGHT[1].tobytes())

    hops = (first().commitment, second(RIGHT[1]).commitment)
    inputs = Inputs(
        Session(b"m", IDS, N_PROMPT, N_ROWS + 1, hops), 3, RowsSent(fetch, FLOAT32, WIDTH)
    )

    given = await inputs.of(hops[1], N_ROWS)

    assert given.is_signed
    assert threads
    assert threading.get_ident() not in threads
