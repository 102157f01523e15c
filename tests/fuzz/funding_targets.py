"""What a stranger shows to be paid from: an allotment's proof, and leaves of its spend log.

What is within the log's own signature is changed and then signed, as the log's owner could.
"""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import Witness, cosign, with_cosignatures
from ledger.escrow import Escrow
from ledger.funding import Purse, SpendProof
from ledger.merkle import EMPTY_ROOT, leaf_hash
from ledger.policy import GRANTED, OPEN_POLICY, Policy
from ledger.spend_books import SpendBooks
from ledger.spend_log import SpendLog
from protocol.canonical import decode, encode
from protocol.errors import IntegrityError
from protocol.signing import SigningKey
from tests.fuzz.harness import Target
from tests.ledger.spenders import ANN, BEN, ISSUER, SWARM, WITNESSES, allot, grant

EPOCH = 100
WITNESS = Witness("w.example", WITNESSES[0].public_key)


def _policy() -> Policy:
    return replace(
        OPEN_POLICY,
        name="a lab",
        mode=GRANTED,
        assets=(ISSUER.public_key,),
        issuers=(ISSUER.public_key,),
        witnesses=((WITNESS.name, WITNESS.public_key),),
        quorum_k=1,
    )


def _signed(key: SigningKey, leaves: list[bytes], *, by_witness: bool = True) -> str:
    """A checkpoint over one leaf or none."""
    root = leaf_hash(leaves[0]) if leaves else EMPTY_ROOT
    head = Checkpoint(origin(SWARM, key.public_key, "spend"), len(leaves), root)
    if not by_witness:
        return head.sign(key)
    return with_cosignatures(head.sign(key), [cosign(head.text(), WITNESS, WITNESSES[0], 1)])


@cache
def _leaf(of: str) -> bytes:
    key, entry = (ANN, allot(ANN, BEN, 60)) if of == "ann" else (ISSUER, grant(ANN, 100))
    with tempfile.TemporaryDirectory() as home, SpendLog.open(Path(home), key, SWARM) as log:
        log.append(entry)
        return log.leaves()[0]


@cache
def _escrow() -> Escrow:
    """Ben's, who knows what Ann was granted and nothing of what she allots."""
    home = tempfile.mkdtemp()
    books = SpendBooks.open(Path(home), SWARM, _policy().quorum())
    leaf = _leaf("issuer")
    books.learn(ISSUER.public_key, _signed(ISSUER, [leaf]), [leaf])
    return Escrow(Purse(BEN.public_key, _policy(), books, risk_limit_ncr=50))


def _lent() -> bytes:
    """Which no witness signed, and Ben lends a little on."""
    leaf = _leaf("ann")
    return SpendProof(leaf, (), _signed(ANN, [leaf], by_witness=False)).encode()


def _judge(data: bytes) -> object:
    escrow, proof = _escrow(), SpendProof.decode(data)
    hold = escrow.hold(proof, ANN.public_key, EPOCH, 1)
    escrow.drop(hold)
    return hold


def _judge_signed(data: bytes) -> object:
    """A leaf that its owner put into a log of one entry."""
    return _judge(SpendProof(data, (), _signed(ANN, [data], by_witness=False)).encode())


def _learn(data: bytes) -> object:
    """Leaves from some place on, under a checkpoint that a quorum signed."""
    match decode(data):
        case [int() as start, [*leaves]] if all(type(each) is bytes for each in leaves):
            note = _signed(ANN, leaves[:1])
            proof = SpendProof(leaves[0] if leaves else b"", (), note)
            with tempfile.TemporaryDirectory() as home:
                books = SpendBooks.open(Path(home), SWARM, _policy().quorum())
                with books:
                    escrow = Escrow(Purse(BEN.public_key, _policy(), books))
                    return escrow.learn(ANN.public_key, proof, leaves, start)
        case _:
            raise IntegrityError("no leaves")


TARGETS = (
    Target(name="funding-proof", parse=_judge, seeds=lambda: [_lent()], shape="cbor"),
    Target(
        name="funding-leaf-signed", parse=_judge_signed, seeds=lambda: [_leaf("ann")], shape="cbor"
    ),
    Target(
        name="funding-leaves",
        parse=_learn,
        seeds=lambda: [encode((0, (_leaf("ann"),)))],
        shape="cbor",
    ),
)
