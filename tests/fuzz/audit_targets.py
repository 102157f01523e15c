"""What strangers say of work that was looked at: fingerprints, verdicts, faults, rounds."""

import asyncio
from functools import cache

import numpy as np

from ledger.fault_words import Asked, decode_told, encode_told
from ledger.fingerprints import Opening, OpeningRequest
from ledger.judging import Leaf, judge
from ledger.rounds import Round, grades
from ledger.spending import Fault
from ledger.verdicts import Verdict, commitment
from node.fingerprints import FingerprintShelf, Kept, Stated
from protocol.canonical import decode, encode
from protocol.errors import IntegrityError
from protocol.fingerprint import compare
from protocol.identity import peer_id_from_public_key
from protocol.sent_rows import SentPart, read_request, request_bytes
from protocol.signing import Envelope
from protocol.windows import BUCKETS, Window
from tests.fuzz.harness import Target
from tests.fuzz.sealing import envelope_of
from tests.ledger.parties import CLIENT, SWARM
from tests.ledger.test_fingerprints import SALT, check, stated
from tests.ledger.test_judging import AUDITOR, LEAF, OTHER, STATED, STRANGER, fault_of, verdict

CALLER = peer_id_from_public_key(CLIENT.public_key)
_loop = asyncio.new_event_loop()


@cache
def _tab():
    return stated(5, 100)


def _opened(data: bytes) -> object:
    return check(_tab()[0], Opening.decode(data))


def _opened_root(data: bytes) -> object:
    """An opening that says of any positions what a statement may have committed to."""
    match decode(data):
        case [int() as start, int() as stop]:
            _, opening = _tab()
            made = Opening(opening.statement, start, stop, opening.root, opening.shown)
            return check(_tab()[0], made)
    raise IntegrityError("no positions")


def _window(data: bytes) -> object:
    window = Window.decode(data)
    return compare(window, np.ones((window.stop - window.start, 64), np.float32))


def _windows() -> list[bytes]:
    values = np.ones((20, BUCKETS), "<f4").tobytes()
    return [Window(40, values).encode(), Window(40, values, 41, (1, 2, 3)).encode()]


@cache
def _kept() -> FingerprintShelf:
    provider, opening = _tab()
    values = np.ones((95, BUCKETS), "<f4").tobytes()
    shelf = FingerprintShelf(1e6, 1 << 20)
    told = Kept(CALLER, opening.statement, SALT, Stated(5, 100, values, 6, (7,) * 90))
    shelf.keep(provider.terms_oid, told)
    return shelf


def _asked(data: bytes) -> bytes:
    return _loop.run_until_complete(_kept().handle(CALLER, data))


def _leaf(data: bytes) -> object:
    leaf = Leaf.decode(data)
    leaf.check(STATED)
    return leaf


def _fault(data: bytes) -> object:
    """One that a stranger signed."""
    return judge(
        Fault.open(envelope_of(Fault.TYPE, SWARM, data, STRANGER), SWARM, STRANGER.public_key),
        SWARM,
    )


def _told_fault() -> Envelope:
    return fault_of(verdict(), verdict(OTHER, 2)).seal(SWARM, STRANGER)


def _verdict(data: bytes) -> object:
    """Committed to, and shown."""
    round_ = Round([AUDITOR.public_key], SWARM)
    envelope = envelope_of(Verdict.TYPE, SWARM, data, AUDITOR)
    round_.commit(AUDITOR.public_key, commitment(AUDITOR.public_key, envelope, SWARM))
    round_.reveal(AUDITOR.public_key, envelope)
    return grades({round_: True})


TARGETS = (
    Target(
        name="fingerprints-asked",
        parse=_asked,
        seeds=lambda: [OpeningRequest(_tab()[0].terms_oid, (0, 2)).encode()],
        shape="cbor",
    ),
    Target(
        name="fingerprints-opened", parse=_opened, seeds=lambda: [_tab()[1].encode()], shape="cbor"
    ),
    Target(
        name="fingerprints-of", parse=_opened_root, seeds=lambda: [encode((5, 100))], shape="cbor"
    ),
    Target(
        name="sent-rows-asked",
        parse=read_request,
        seeds=lambda: [request_bytes(bytes(32), 7)],
        shape="cbor",
    ),
    Target(
        name="sent-rows",
        parse=SentPart.decode,
        seeds=lambda: [SentPart(4, 0, 3, bytes(8)).encode()],
    ),
    Target(name="fingerprint-window", parse=_window, seeds=_windows, shape="cbor"),
    Target(name="fault-leaf", parse=_leaf, seeds=lambda: [LEAF.encode()], shape="cbor"),
    Target(name="fault-signed", parse=_fault, seeds=lambda: [_told_fault().payload], shape="cbor"),
    Target(
        name="faults-asked",
        parse=Asked.decode,
        seeds=lambda: [Asked(frozenset({bytes(8)}), (_told_fault(),)).encode()],
        shape="cbor",
    ),
    Target(
        name="faults-told",
        parse=decode_told,
        seeds=lambda: [encode_told([_told_fault()])],
        shape="cbor",
    ),
    Target(name="verdict-signed", parse=_verdict, seeds=lambda: [verdict().payload], shape="cbor"),
)
