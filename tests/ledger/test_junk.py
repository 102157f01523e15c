"""44: strangers' bytes by the hundred thousand: size, shape and a known key are asked for first.

What is counted is work, not time: checks on the curve, each of which takes as long as some forty
decodings, and bytes that the decoder is given.
"""

import random
import threading

import pytest

import protocol.canonical
import protocol.signing
from ledger.checkpoint import Checkpoint
from ledger.findings import Findings
from ledger.receipts import Receipt, open_receipt
from ledger.spend_books import SpendBooks
from ledger.spend_learning import Learner
from ledger.spend_words import Published
from ledger.witness import AddCheckpoint, WitnessBook
from protocol.canonical import MAX_BYTES, encode
from protocol.errors import IntegrityError
from protocol.signing import Envelope, SigningKey
from tests.ledger.parties import CLIENT, SWARM, closed_receipt, open_tab, ran, settle
from tests.ledger.spenders import ANN, BEN, WITNESSES, allot, chained
from tests.ledger.test_spend_books import FOUR, signed
from tests.ledger.test_witness import HONEST, LOGS, NAME, NOW_S

NOISE = random.Random(44)
N_JUNK = 300


@pytest.fixture
def work(monkeypatch):
    """What this thread did since: checks on the curve, and bytes decoded.

    Threads that other tests of this process left at work are not counted.
    """
    done = {"curve": 0, "bytes": 0}
    check, loads = protocol.signing.crypto_sign_open, protocol.canonical.cbor2.loads
    here = threading.get_ident()

    def checked(*arguments):
        done["curve"] += threading.get_ident() == here
        return check(*arguments)

    def loaded(data, **options):
        done["bytes"] += len(data) if threading.get_ident() == here else 0
        return loads(data, **options)

    monkeypatch.setattr(protocol.signing, "crypto_sign_open", checked)
    monkeypatch.setattr(protocol.canonical.cbor2, "loads", loaded)
    return done


@pytest.fixture
def doors(memory_path):
    """Where a ledger takes bytes from strangers; each with a good message, to be spoilt."""
    payer, provider = open_tab()
    settle(payer, provider, ran(9).meter(), final=False)
    book = WitnessBook.open(memory_path / "w", NAME, WITNESSES[0], LOGS.get)
    books = SpendBooks.open(memory_path / "b", SWARM, FOUR)
    learning = Learner(books)
    leaves = chained(allot(ANN, BEN, 5))
    data = [leaf.encode() for leaf in leaves]
    note = signed(ANN.public_key, data, (0, 1, 2))
    yield {
        "witness": (
            lambda data: book.add_checkpoint(AddCheckpoint.parse(data), NOW_S),
            HONEST.ask(0, 10).encode(),
        ),
        "spend log": (
            lambda data: raised(learning.take(Published.decode(data))),
            Published(ANN.public_key, note, 0, tuple(data)).encode(),
        ),
        "receipt": (
            lambda data: open_receipt(Receipt.decode(data), SWARM),
            closed_receipt(7, nonce=b"another one, 16b").encode(),
        ),
        "voucher": (
            lambda data: provider.accept_voucher(Envelope.decode(data), now_ms=0),
            payer.receipt().voucher.encode(),
        ),
    }
    books.close()
    book.close()


def raised(learned):
    if learned.error is not None:
        raise learned.error


def junk(good):
    """Bytes of no shape, of other shapes, and far too many of them."""
    yield b""
    yield NOISE.randbytes(MAX_BYTES * 100)
    yield encode((1, "x", b"y", tuple(range(100))))
    yield b"\x81" * 5000 + b"\x00"  # nested
    yield good[: len(good) // 2] + good
    for _ in range(N_JUNK):
        yield NOISE.randbytes(NOISE.randrange(1, 3000))
        yield good[: NOISE.randrange(len(good))]


def refused(door, data):
    with pytest.raises(IntegrityError):
        door(data)


@pytest.mark.parametrize("name", ["witness", "spend log", "receipt", "voucher"])
def test_44_junk_costs_no_curve_and_no_more_decoding_than_its_size(doors, work, name):
    door, good = doors[name]
    for data in junk(good):
        work.update(curve=0, bytes=0)
        refused(door, data)
        # The outer shape, and each part of it once or twice: of what is too long, nothing at all.
        assert work["curve"] == 0
        assert work["bytes"] <= min(3 * len(data), 8 * MAX_BYTES), len(data)


def test_44_what_a_stranger_signed_well_is_refused_by_its_key_alone(doors, work):
    """Keys are free to make: a signature that holds says nothing yet."""
    stranger = SigningKey.from_seed(b"s" * 32)
    door, good = doors["voucher"]
    voucher = Envelope.decode(good)
    forged = Envelope(
        voucher.type, voucher.payload, ((stranger.public_key, stranger.sign(b"anything")),)
    )
    other = HONEST.ask(0, 10)
    lines = other.note.split("\n")
    unknown = AddCheckpoint(
        0, (), Checkpoint(f"{lines[0][:-6]}/other", 1, bytes(32)).sign(stranger)
    )
    work.update(curve=0)

    for _ in range(100):
        refused(door, forged.encode())
        refused(doors["witness"][0], unknown.encode())
    assert work["curve"] == 0


@pytest.mark.parametrize(
    ("name", "most"), [("witness", 1), ("spend log", 1), ("receipt", 1), ("voucher", 1)]
)
def test_44_what_is_well_formed_and_signed_by_nobody_costs_one_look_at_the_curve(
    doors, work, name, most
):
    door, good = doors[name]
    flipped = 0
    for place in range(0, len(good), 5):
        data = bytearray(good)
        data[place] ^= 1
        work.update(curve=0)
        try:
            door(bytes(data))
        except IntegrityError:
            flipped += 1
        # The parts before the one that was changed may hold: a receipt has five signatures.
        assert work["curve"] <= most + (4 if name in ("receipt", "spend log") else 0)
    assert flipped


def test_44_a_log_that_is_known_already_costs_no_curve_however_often_it_is_told(doors, work):
    door, good = doors["spend log"]
    door(good)
    work.update(curve=0)
    for _ in range(100):
        door(good)
    assert work["curve"] == 0


def test_44_faults_beyond_what_is_kept_cost_no_curve(memory_path, work, monkeypatch):
    monkeypatch.setattr("ledger.findings.MAX_FAULTS", 0)
    with Findings.open(memory_path, SWARM) as findings:
        told = Envelope("mh/fault/1", encode((1, "x")), ((CLIENT.public_key, bytes(64)),))
        for _ in range(50):
            refused(findings.add, told)
    assert work["curve"] == 0
