"""What strangers show each other of debts: questions and answers of `owing`, tallies, kin."""

import asyncio
import tempfile
from functools import cache
from pathlib import Path

from ledger.log import Ledger
from ledger.tallies import Tallies, signed_too
from ledger.tally import Kin, Tally, open_kin, open_tally
from ledger.trust import Trust, edges_of
from ledger.writer import LedgerWriter
from node.owing import OwingBook
from protocol.identity import Identity, peer_id_from_public_key
from protocol.owing import Owing, Showing
from protocol.signing import SigningKey
from tests.fuzz.harness import Target
from tests.fuzz.sealing import envelope_of
from tests.ledger.parties import CLIENT, PROVIDER, STRANGER, SWARM, closed_receipt

PAYER, NODE = SigningKey.from_seed(bytes([71]) * 32), SigningKey.from_seed(bytes([72]) * 32)
SENDER = peer_id_from_public_key(PAYER.public_key)
_loop = asyncio.new_event_loop()


def _tally(payer: SigningKey = PAYER, payee: SigningKey = PROVIDER, served: int = 5) -> Tally:
    return Tally(
        payer=payer.public_key, payee=payee.public_key, served=served, settled=2, issued_ms=1
    )


def _kin() -> Kin:
    return Kin(node=NODE.public_key, client=PAYER.public_key, issued_ms=1)


@cache
def _book() -> OwingBook:
    """Of a node that worked for somebody, and lends."""
    home = Path(tempfile.mkdtemp())
    with Ledger.open(home, PROVIDER, SWARM) as ledger:
        ledger.append(closed_receipt())
    books = LedgerWriter(lambda: Ledger.open(home, PROVIDER, SWARM))
    book = OwingBook(Identity(PROVIDER), SWARM, books, None)
    book.load()
    return book


def _asked(data: bytes) -> bytes:
    return _loop.run_until_complete(_book().handle(SENDER, data))


def _questions() -> list[bytes]:
    mutual = _tally(PAYER, STRANGER).seal(SWARM, PAYER, STRANGER).encode()
    kin = _kin().seal(SWARM, PAYER, NODE).encode()
    return [Showing().encode(), Showing(kin=kin, tallies=(mutual,)).encode()]


@cache
def _kept() -> Tallies:
    """Of a client that owes."""
    return Tallies.open(Path(tempfile.mkdtemp()), SWARM)


def _told(data: bytes) -> object:
    """What a client does with a node's answer."""
    told = Owing.decode(data, sender="node")
    made = signed_too(told.tally, PAYER, PROVIDER.public_key, 9, SWARM) if told.tally else []
    return [_kept().keep(each) for each in made]


def _answers() -> list[bytes]:
    word = _tally().seal(SWARM, PROVIDER).encode()
    others = (_tally(STRANGER, NODE).seal(SWARM, STRANGER, NODE).encode(),)
    return [Owing(owed_ncr=3, credit_ncr=5, tally=word, others=others).encode()]


def _tally_signed(data: bytes) -> object:
    """By both of its parties; and what is weighed by it."""
    said, _ = open_tally(envelope_of(Tally.TYPE, SWARM, data, PAYER, NODE), SWARM)
    ours = {CLIENT.public_key}
    edges = edges_of([said], ours) | {(PAYER.public_key, CLIENT.public_key): 7}
    return Trust(edges, ours).lends(NODE.public_key, 100)


def _kin_signed(data: bytes) -> object:
    return open_kin(envelope_of(Kin.TYPE, SWARM, data, PAYER, NODE), SWARM)


TARGETS = (
    Target(name="owing-question", parse=_asked, seeds=_questions, shape="cbor"),
    Target(name="owing-answer", parse=_told, seeds=_answers, shape="cbor"),
    Target(
        name="tally-signed",
        parse=_tally_signed,
        seeds=lambda: [_tally(PAYER, NODE).seal(SWARM, PAYER, NODE).payload],
        shape="cbor",
    ),
    Target(
        name="kin-signed",
        parse=_kin_signed,
        seeds=lambda: [_kin().seal(SWARM, PAYER, NODE).payload],
        shape="cbor",
    ),
)
