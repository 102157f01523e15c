"""Asking witnesses: a quorum is enough, too few are named, and a copy put back signs nothing."""

import asyncio
import shutil
import time

import pytest

from ledger.amounts import parse_amount, show_amount
from ledger.cosigning import Witnesses
from ledger.errors import DamagedLedger
from ledger.spend_log import SpendLog
from ledger.witness import WitnessBook
from ledger.witness_http import Answer, answer
from manyhands.crediting.panel import Panel
from protocol.errors import NoQuorum, PeerUnreachable
from tests.ledger.spenders import ANN, ISSUER, SWARM, WITNESSES, grant
from tests.ledger.test_spend_books import NAMED


@pytest.fixture
def books(tmp_path):
    opened = [
        WitnessBook.open(tmp_path / named.name, named.name, key, lambda _: ISSUER.public_key)
        for named, key in zip(NAMED, WITNESSES, strict=True)
    ]
    yield {book.witness.name: book for book in opened}
    for book in opened:
        book.close()


def asking(book):
    async def ask(request):
        return answer(book, "POST", "/add-checkpoint", request, int(time.time()))

    return ask


def panel(books, **instead):
    asks = {name: asking(book) for name, book in books.items()} | instead
    return Panel(Witnesses.of(*NAMED), {name: ask for name, ask in asks.items() if ask})


@pytest.fixture
def log(tmp_path):
    with SpendLog.open(tmp_path / "issuer", ISSUER, SWARM) as log:
        yield log


async def test_who_has_a_quorum_waits_for_no_other_witness(books, log):
    hung = asyncio.Event()

    async def hang(request):
        await hung.wait()

    asked = panel(books, **{NAMED[0].name: hang})
    await asked.check(log)
    log.append(grant(ANN, 5))

    first = await asyncio.wait_for(asked.cosign(log), 5)
    log.append(grant(ANN, 6, no=1))
    second = await panel(books).cosign(log)

    assert first.has_quorum
    assert (len(first.times_s), first.head.size) == (3, 1)
    assert second.has_quorum  # one of them had not signed before, the others had
    assert second.head.size == 2


@pytest.mark.parametrize("n_early", [1, 2])
async def test_what_another_process_logs_while_witnesses_sign_is_signed_too(
    books, log, tmp_path, n_early
):
    """A command and a node write to one log: some witnesses signed it as it was before."""
    log.append(grant(ANN, 5))
    n_asked = 0

    def late(name):
        async def ask(request):
            nonlocal n_asked
            signed = await asking(books[name])(request)
            n_asked += 1
            if n_asked == n_early:
                with SpendLog.open(tmp_path / "issuer", ISSUER, SWARM) as other:
                    other.append(grant(ANN, 6, no=1))
            return signed

        return ask

    cosigned = await panel(books, **{name: late(name) for name in books}).cosign(log)

    assert (cosigned.has_quorum, cosigned.head.size) == (True, 2)


async def test_too_few_witnesses_are_named_and_what_signed_is_kept(books, log):
    async def away(request):
        raise PeerUnreachable("", "refused")

    asked = panel(books, **{NAMED[0].name: away, NAMED[1].name: None})
    log.append(grant(ANN, 5))

    with pytest.raises(NoQuorum, match="2 of the 3 witnesses") as told:
        await asked.cosign(log)
    back = panel({NAMED[1].name: books[NAMED[1].name]})

    assert set(told.value.missing) == {NAMED[0].name, NAMED[1].name}
    assert f"swarm witness {NAMED[1].name}" in str(told.value)
    assert (await back.cosign(log)).has_quorum


@pytest.mark.parametrize("is_lost", [False, True])
async def test_31_a_home_put_back_signs_nothing(books, log, tmp_path, is_lost):
    """Checkpoint and all: of that only witnesses know, also where the log was lost altogether."""
    log.append(grant(ANN, 5))
    log.close()
    if not is_lost:
        shutil.copytree(tmp_path / "issuer", tmp_path / "copy")
    with SpendLog.open(tmp_path / "issuer", ISSUER, SWARM) as log:
        log.append(grant(ANN, 6, no=1))
        await panel(books).cosign(log)

    with SpendLog.open(tmp_path / "copy", ISSUER, SWARM) as copy:
        with pytest.raises(DamagedLedger, match="a witness signed 2 entries"):
            await panel(books).check(copy)
        copy.append(grant(ANN, 7, no=1), grant(ANN, 8, no=2))
        with pytest.raises(DamagedLedger, match="a witness signed 2 other entries"):
            await panel(books).cosign(copy)


async def test_another_log_of_the_size_that_a_witness_signed_is_a_copy_too(books, log, tmp_path):
    log.append(grant(ANN, 5))
    await panel(books).cosign(log)

    with SpendLog.open(tmp_path / "other", ISSUER, SWARM) as other:
        other.append(grant(ANN, 6))
        for asked in (panel(books).check, panel(books).cosign):
            with pytest.raises(DamagedLedger, match="1 other entries"):
                await asked(other)


async def test_one_witness_that_claims_to_know_more_stops_nobody(books, log):
    async def boast(request):
        return Answer(409, "text/x.tlog.size", b"1000000\n")

    log.append(grant(ANN, 5))
    asked = panel(books, **{NAMED[0].name: boast})

    await asked.check(log)

    assert (await asked.cosign(log)).has_quorum


async def test_a_witness_that_answers_nonsense_is_one_that_does_not_answer(books, log):
    async def nonsense(request):
        return Answer(200, "text/plain", b"\xff")

    async def sizes(request):
        return Answer(409, "text/x.tlog.size", b"0\n")

    log.append(grant(ANN, 5))
    asked = panel(books, **{NAMED[0].name: nonsense, NAMED[1].name: sizes})

    with pytest.raises(NoQuorum, match="no signature") as told:
        await asked.cosign(log)
    assert "goes on telling" in str(told.value) or "other" in str(told.value)


def test_amounts_are_credits_unless_they_say_ncr():
    assert parse_amount("2.5") == 2_500_000_000
    assert parse_amount("0.000000001") == 1 == parse_amount("1ncr")
    assert [parse_amount(text) for text in ("1,5", "-1", "1e9", "0.0000000001", "ncr", "")] == (
        [None] * 6
    )
    assert show_amount(2_500_000_000) == "2.5"
    assert show_amount(1) == "0.000000001"
    assert show_amount(12_000 * 10**9) == "12,000"
