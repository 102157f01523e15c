"""What vouchers promise a payee of allotments, read by those who were no party to their tabs.

In: a payee's collection. Out: of each tab, which payer promised how much of which allotment, once
all signatures hold. Prices and work are nobody's business here: the payer signed the amount.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.errors import BadObject
from ledger.mandates import check_promise, open_mandate
from ledger.objects import Terms, Voucher
from ledger.receipts import Receipt
from ledger.spending import MAX_COLLECTED, Collection
from protocol.canonical import MAX_BYTES, decode
from protocol.signing import Envelope

ROOM_BYTES = MAX_BYTES - 4096  # of a leaf of a spend log, beside the promises in it


@dataclass(frozen=True, slots=True)
class Promised:
    """On one tab, by its payer."""

    terms_oid: bytes
    session_id: bytes
    allot_oid: bytes
    payer: bytes
    asset: bytes
    amount: int


def open_collection(collection: Collection, payee: bytes, swarm_id: bytes) -> list[Promised]:
    """
    Raises:
        IntegrityError: a promise is none to this payee, cites no allotment, or a signature is bad.
    """
    return [
        _open(Envelope.decode(terms), Envelope.decode(voucher), payee, swarm_id)
        for terms, voucher in collection.promises
    ]


def _open(terms: Envelope, voucher: Envelope, payee: bytes, swarm_id: bytes) -> Promised:
    agreed = Terms.from_fields(decode(terms.payload))
    if agreed.payee != payee or agreed.allot_oid is None:
        raise BadObject("what is collected was promised to somebody else, or of no allotment")
    agreed = Terms.open(terms, swarm_id, agreed.payer_key, agreed.payee_key)
    oid = terms.object_id(swarm_id)
    promise = Voucher.open(voucher, swarm_id, agreed.payer_key)
    if (promise.session_id, promise.terms_oid) != (agreed.session_id, oid):
        raise BadObject("the voucher is about another tab than the terms")
    if agreed.mandate:
        held = open_mandate(agreed.mandate, agreed.payer, agreed.payer_key, swarm_id)
        check_promise(held, promise.amount, promise.issued_ms)
    assert agreed.allot_oid is not None
    parties = (agreed.allot_oid, agreed.payer, agreed.asset)
    return Promised(oid, agreed.session_id, *parties, promise.amount)


def collections(receipts: Sequence[Receipt]) -> list[Collection]:
    """The promises in these receipts, in as few collections as a spend log's leaves allow."""
    made: list[Collection] = []
    pairs: list[tuple[bytes, bytes]] = []
    n_bytes = 0
    for receipt in receipts:
        if receipt.voucher is None:
            continue
        pair = (receipt.terms.encode(), receipt.voucher.encode())
        size = sum(map(len, pair)) + 16
        if pairs and (len(pairs) == MAX_COLLECTED or n_bytes + size > ROOM_BYTES):
            made.append(Collection(promises=tuple(pairs)))
            pairs, n_bytes = [], 0
        pairs.append(pair)
        n_bytes += size
    return [*made, Collection(promises=tuple(pairs))] if pairs else made
