"""The thread that writes: in order, and done before it closes."""

from threading import Event

import pytest

from ledger import Ledger, LedgerReader, LedgerWriter, verify_ledger
from ledger.errors import BadReceipt, ForeignLedger
from ledger.meter import Meter
from tests.ledger.parties import CLIENT, STRANGER, SWARM, closed_receipt, open_tab


def receipts(n):
    return [closed_receipt(8 + i, nonce=i.to_bytes(16, "big")) for i in range(n)]


def test_what_was_asked_for_is_written_before_it_closes(home):
    writer = LedgerWriter(lambda: Ledger.open(home, CLIENT, SWARM))
    futures = [writer.file(receipt) for receipt in receipts(3)]
    writer.keep(open_tab(nonce=b"still-open------")[0].receipt())
    writer.close()

    assert [future.result().index for future in futures] == [0, 1, 2]
    with LedgerReader.read(home) as reader:
        assert len(reader) == 4


def test_a_receipt_that_does_not_hold_fails_its_own_future_only(home):
    good, bad = receipts(2)
    swapped = type(bad)(offer=bad.offer, terms=bad.terms, voucher=good.voucher)
    writer = LedgerWriter(lambda: Ledger.open(home, CLIENT, SWARM))

    with pytest.raises(BadReceipt):
        writer.file(swapped).result()
    assert writer.file(good).result().index == 0
    writer.close()


def test_a_ledger_that_cannot_be_opened_says_so_at_once(home):
    Ledger.open(home, CLIENT, SWARM).close()

    with pytest.raises(ForeignLedger):
        LedgerWriter(lambda: Ledger.open(home, STRANGER, SWARM))


def test_receipts_that_wait_together_share_a_checkpoint_even_when_nobody_waits_any_more(home):
    started, release = Event(), Event()

    writer = LedgerWriter(lambda: Ledger.open(home, CLIENT, SWARM))
    writer._thread.submit(lambda: (started.set(), release.wait(10)))
    started.wait(10)
    good, bad, other = receipts(3)
    swapped = type(bad)(offer=bad.offer, terms=bad.terms, voucher=good.voucher)
    first, cancelled = (writer.file(receipt) for receipt in (good, other))
    cancelled.cancel()
    release.set()
    assert first.result().index == 0
    assert writer.file(bad).result().index == 2
    with pytest.raises(BadReceipt):
        writer.file(swapped).result()
    writer.close()

    assert verify_ledger(home, CLIENT.public_key).n_checkpoints == 2


def test_an_open_tab_that_waits_with_its_receipt_is_open_no_more_and_the_latest_of_each_is_kept(
    home,
):
    started, release = Event(), Event()
    payer, provider = open_tab(nonce=b"still-open------")
    early = payer.receipt()
    provider.make_statement(
        Meter(), epoch=0, last_step=0, in_root=bytes(32), out_root=bytes(32), now_ms=0
    )
    late, (closed, bad, good) = provider.receipt(), receipts(3)
    swapped = type(bad)(offer=bad.offer, terms=bad.terms, voucher=good.voucher)

    writer = LedgerWriter(lambda: Ledger.open(home, CLIENT, SWARM))
    writer._thread.submit(lambda: (started.set(), release.wait(10)))
    started.wait(10)
    for receipt in (early, late, closed, bad):
        writer.keep(receipt)
    filed, refused = writer.file(closed), writer.file(swapped)
    release.set()
    assert filed.result().index == 0
    with pytest.raises(BadReceipt):
        refused.result()

    with LedgerReader.read(home) as reader:
        assert {one.encode() for one in reader.open_tabs()} == {late.encode(), bad.encode()}
    writer.close()
