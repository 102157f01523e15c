"""What settles credit, and tells of it: the call `settle`, settlements, what vouchers promise, how
ledgers are compared, and the words about spend logs."""

import tempfile
from functools import cache
from pathlib import Path

from ledger.collecting import open_collection
from ledger.findings import Findings
from ledger.fold import Allotted
from ledger.forks import Side
from ledger.log import Ledger
from ledger.logs_http import answer as logs_answer
from ledger.merkle import leaf_hash
from ledger.objects import Terms, Voucher
from ledger.parting import Parting
from ledger.policy import OPEN_POLICY
from ledger.reconciliation import Asker, IdSet
from ledger.settle_desk import SettleDesk
from ledger.settle_words import GIVE, PROPOSE, SIGNED, TABS, TAKE, Asked, Page, Proposed
from ledger.settled import SettledBook, open_settlement
from ledger.settling import OwedTab
from ledger.spend_books import SpendBooks
from ledger.spend_learning import Learner
from ledger.spend_shelf import Forked, Head
from ledger.spend_words import (
    Known,
    News,
    Published,
    Since,
    Wanted,
    decode_answer,
    encode_answer,
    read_fault,
)
from ledger.spending import Collection, Settlement
from ledger.told_objects import (
    FAULTS,
    SETTLEMENTS,
    KeptFaults,
    KeptSettlements,
    ToldObjects,
    ask_compare,
    ask_objects,
)
from ledger.witness_http import Answer
from protocol.canonical import encode
from protocol.errors import IntegrityError
from protocol.signing import Envelope
from tests.fuzz.funding_targets import WITNESS, _leaf, _policy, _signed
from tests.fuzz.harness import Target
from tests.fuzz.sealing import envelope_of
from tests.ledger.parties import CLIENT, NOW_MS, PROVIDER, SWARM, closed_receipt
from tests.ledger.spenders import ANN, ASSET, BEN, ISSUER, collect, promise, settle
from tests.ledger.test_told_objects import OID, POLICY

TODAY = OPEN_POLICY.epoch_of(NOW_MS)


@cache
def _desk() -> SettleDesk:
    """A payee's, with two tabs on one allotment."""
    home = Path(tempfile.mkdtemp())
    with Ledger.open(home, PROVIDER, SWARM) as ledger:
        ledger.append_all([_receipt(1), _receipt(2)])
    rules = (home, PROVIDER, SWARM, OPEN_POLICY)
    return SettleDesk(*rules, lambda: TODAY + 1, lambda receipt: None)


@cache
def _receipt(number: int):
    return closed_receipt(
        20,
        nonce=bytes([number]) * 16,
        asset=ASSET,
        allot_oid=bytes([9]) * 32,
        checkpoint_hash=bytes(32),
    )


def _visited(data: bytes) -> bytes:
    return _desk().answer(CLIENT.public_key, data)


def _visits() -> list[bytes]:
    proposed = Proposed.decode(_visited(Asked(PROPOSE, TODAY, ASSET).encode()))
    (made,) = proposed.settlements
    signed = envelope_of(made.type, SWARM, made.payload, CLIENT, PROVIDER).encode()
    page = Page.decode(_visited(Asked(TABS, TODAY, ASSET).encode()))
    asked = (
        Asked(PROPOSE, TODAY, ASSET),
        Asked(SIGNED, data=signed),
        Asked(TABS, TODAY, ASSET),
        Asked(TAKE, data=_receipt(1).encode()),
        Asked(GIVE, data=page.tabs[0].session_id),
    )
    return [each.encode() for each in asked]


def _pages() -> list[bytes]:
    tabs: tuple[OwedTab, ...] = Page.decode(_visited(Asked(TABS, TODAY, ASSET).encode())).tabs
    return [Page(tabs, True).encode()]


def _promised(data: bytes) -> object:
    """A voucher that its payer signed, under terms that both did."""
    terms, _ = promise(ANN, BEN, bytes([9]) * 32, 30)
    voucher = envelope_of(Voucher.TYPE, SWARM, data, ANN).encode()
    return open_collection(Collection(promises=((terms, voucher),)), BEN.public_key, SWARM)


def _agreed(data: bytes) -> object:
    """Terms that both signed, whatever they say."""
    _, voucher = promise(ANN, BEN, bytes([9]) * 32, 30)
    terms = envelope_of(Terms.TYPE, SWARM, data, ANN, BEN).encode()
    collection = Collection(promises=((terms, voucher),))
    return open_collection(collection, BEN.public_key, SWARM)


def _collected(data: bytes) -> object:
    envelope = envelope_of(Collection.TYPE, SWARM, data, BEN)
    collection = Collection.open(envelope, SWARM, BEN.public_key)
    return open_collection(collection, BEN.public_key, SWARM)


@cache
def _told() -> ToldObjects:
    """What a node keeps of others."""
    home = Path(tempfile.mkdtemp())
    book = SettledBook.open(home, SWARM)
    funded = Allotted(payer=ANN.public_key, payee=BEN.public_key, asset=ASSET, amount=100)
    kinds = {
        SETTLEMENTS: KeptSettlements(book, POLICY, lambda oid: funded, lambda: 40, b""),
        FAULTS: KeptFaults(Findings.open(home, SWARM)),
    }
    for epoch in range(40):
        kinds[SETTLEMENTS].take(settle(ANN, BEN, (OID, 5), epoch=epoch))
    return ToldObjects(kinds, SWARM)


def _taken(data: bytes) -> int:
    """Objects that were asked for, as far as they can be read at all."""
    wanted, at = [], 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        try:
            wanted.append(Envelope.decode(data[at + 4 : at + 4 + size]).object_id(SWARM))
        except IntegrityError:
            break
        at += 4 + size
    return _told().take(SETTLEMENTS, wanted, data)


def _compared(data: bytes) -> object:
    """What an asker makes of an answer."""
    asker = Asker(IdSet([(n % 3, bytes([n]) * 32) for n in range(60)]))
    asker.message()
    return asker.take(data)


def _comparisons() -> list[bytes]:
    other = IdSet([(n % 3, bytes([n]) * 32) for n in range(30, 90)])
    return [Asker(ids).message() for ids in (IdSet(()), other)]


def _answers() -> list[bytes]:
    from ledger.reconciliation import Answerer

    asker = Asker(IdSet([(n % 3, bytes([n]) * 32) for n in range(60)]))
    other = IdSet([(n % 3, bytes([n]) * 32) for n in range(30, 90)])
    return [Answerer(other).answer(asker.message())]


def _objects() -> list[bytes]:
    return [
        ask_objects(SETTLEMENTS, [oid[8:] for oid in _told().kinds[SETTLEMENTS].ids().keys[:9]])
    ]


@cache
def _learner() -> Learner:
    books = SpendBooks.open(Path(tempfile.mkdtemp()), SWARM, _policy().quorum())
    leaf = _leaf("issuer")
    books.learn(ISSUER.public_key, _signed(ISSUER, [leaf]), [leaf])
    return Learner(books)


def _published(data: bytes) -> object:
    return _learner().take(Published.decode(data))


def _publications() -> list[bytes]:
    made = []
    for key, of in ((ANN, "ann"), (ISSUER, "issuer")):
        leaf = _leaf(of)
        made.append(Published(key.public_key, _signed(key, [leaf]), 0, (leaf,)).encode())
    return made


def _parted(data: bytes) -> object:
    return _learner().part(Parting.decode(data))


def _partings() -> list[bytes]:
    leaves = [_leaf(of) for of in ("ann", "issuer")]
    sides = [Side(_signed(ANN, [leaf]), leaf_hash(leaf)) for leaf in leaves]
    return [Parting(ANN.public_key, 0, *sides).encode()]


def _wanted(data: bytes) -> object:
    asked = Wanted.decode(data)
    return _learner().shelf.fetch(asked.account, asked.path)


def _wants() -> list[bytes]:
    paths = ("checkpoint", "tile/entries/000.p/1", "tile/0/000.p/1")
    return [Wanted(ISSUER.public_key, path).encode() for path in paths]


def _over_http(data: bytes) -> object:
    return logs_answer(_learner().shelf, "GET", data.decode(errors="surrogateescape"))


def _spend_word(data: bytes) -> object:
    """Any of the short words; one of them may fit."""
    made: list[object] = []
    for read in (Since.decode, News.decode, Known.decode, decode_answer, read_fault):
        try:
            made.append(read(data))
        except IntegrityError:
            continue
    return made


def _spend_words() -> list[bytes]:
    account = ANN.public_key
    heads = (Head(account, 3, bytes(32)),)
    return [
        Since(b"whose", 5).encode(),
        News(Since(b"whose", 5), True, heads, (Forked(account, 2),)).encode(),
        Known(4, False).encode(),
        encode_answer(Answer(200, "text/plain", WITNESS.name.encode())),
    ]


SETTLED = settle(ANN, BEN, (OID, 5))
TARGETS = (
    Target(name="settle-asked", parse=_visited, seeds=_visits, shape="cbor"),
    Target(
        name="settle-proposed",
        parse=Proposed.decode,
        seeds=lambda: [
            _visited(Asked(PROPOSE, TODAY, ASSET).encode()),
            encode((((SETTLED.encode(),)), ((bytes(16), 3),))),
        ],
        shape="cbor",
    ),
    Target(name="settle-page", parse=Page.decode, seeds=_pages, shape="cbor"),
    Target(
        name="settlement-signed",
        parse=lambda data: open_settlement(
            envelope_of(Settlement.TYPE, SWARM, data, ANN, BEN), SWARM
        ),
        seeds=lambda: [SETTLED.payload],
        shape="cbor",
    ),
    Target(
        name="collection-voucher",
        parse=_promised,
        seeds=lambda: [Envelope.decode(promise(ANN, BEN, bytes([9]) * 32, 30)[1]).payload],
        shape="cbor",
    ),
    Target(
        name="collection-terms",
        parse=_agreed,
        seeds=lambda: [Envelope.decode(promise(ANN, BEN, bytes([9]) * 32, 30)[0]).payload],
        shape="cbor",
    ),
    Target(
        name="collection-signed",
        parse=_collected,
        seeds=lambda: [collect(BEN, promise(ANN, BEN, bytes([9]) * 32, 30)).payload],
        shape="cbor",
    ),
    Target(
        name="reconcile-asked",
        parse=lambda data: _told().compare(ask_compare(SETTLEMENTS, data)),
        seeds=_comparisons,
        shape="cbor",
    ),
    Target(
        name="reconcile-kind",
        parse=lambda data: _told().compare(data),
        seeds=lambda: [ask_compare(SETTLEMENTS, each) for each in _comparisons()],
        shape="cbor",
    ),
    Target(name="reconcile-answered", parse=_compared, seeds=_answers, shape="cbor"),
    Target(
        name="objects-asked", parse=lambda data: _told().tell(data), seeds=_objects, shape="cbor"
    ),
    Target(
        name="objects-taken",
        parse=_taken,
        seeds=lambda: [_told().tell(each) for each in _objects()],
    ),
    Target(name="spend-published", parse=_published, seeds=_publications),
    Target(name="spend-parting", parse=_parted, seeds=_partings, shape="cbor"),
    Target(name="spend-wanted", parse=_wanted, seeds=_wants, shape="cbor"),
    Target(
        name="spend-http",
        parse=_over_http,
        seeds=lambda: [
            f"/{ISSUER.public_key.hex()}/{path}".encode()
            for path in ("checkpoint", "tile/entries/000.p/1", "tile/0/x001/000")
        ],
    ),
    Target(name="spend-words", parse=_spend_word, seeds=_spend_words, shape="cbor"),
)
