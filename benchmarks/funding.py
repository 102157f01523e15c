"""What it costs a node and a client that an issuer's credit pays for sessions.

A payer with one allotment opens sessions at one node: the client takes a part of its wallet, the
node judges the proof and sets the part aside, both give back what was not promised. Files lie where
`--home` says: the node's claim is on disk before its receipt is; the client's wallet survives the
process, and where the power fails it believes the payee. Run: python -m benchmarks.funding
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ledger.escrow import Escrow
from ledger.funding import Purse, SpendProof
from ledger.policy import GRANTED, OPEN_POLICY, Policy
from ledger.spend_books import SpendBooks
from ledger.spend_log import SpendLog
from ledger.spending import Grant
from ledger.wallet import Wallet
from ledger.witness import WitnessBook
from protocol.signing import OPEN_SWARM_ID, SigningKey

N, AMOUNT, EPOCH = 500, 1000, 20_000
ISSUER, PAYER, PAYEE = (SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
WITNESSES = {f"w{n}.example": SigningKey.from_seed(bytes([10 + n]) * 32) for n in range(4)}


def policy() -> Policy:
    return replace(
        OPEN_POLICY,
        mode=GRANTED,
        assets=(ISSUER.public_key,),
        issuers=(ISSUER.public_key,),
        witnesses=tuple((name, key.public_key) for name, key in sorted(WITNESSES.items())),
        quorum_k=3,
    )


def cosigned(log: SpendLog, books: list[WitnessBook], among: Policy) -> None:
    lines = [book.add_checkpoint(log.request(book.size(log.origin)), 1) for book in books]
    log.add_cosignatures(lines, among.quorum())


def key_of(origin: str) -> bytes:
    return bytes.fromhex(origin.split("/")[2])


def timed(what: str, do: Callable[[], object]) -> None:
    began = time.perf_counter()
    do()
    each_ms = (time.perf_counter() - began) / N * 1000
    print(f"{what:<58}{each_ms:8.3f} ms{1000 / each_ms:10,.0f} per s")


def main(home: Path) -> None:
    among = policy()
    with (
        SpendLog.open(home / "issuer", ISSUER, OPEN_SWARM_ID) as issuer,
        SpendBooks.open(home / "node", OPEN_SWARM_ID, among.quorum()) as books,
        Wallet.open(home / "client", PAYER, OPEN_SWARM_ID, among) as wallet,
    ):
        witnesses = [WitnessBook.open(home / n, n, k, key_of) for n, k in WITNESSES.items()]
        asset = ISSUER.public_key
        granted = Grant(
            issuer=asset, account=PAYER.public_key, asset=asset, grant_no=0, amount=10**12
        )
        issuer.append(granted.seal(OPEN_SWARM_ID, ISSUER))
        cosigned(issuer, witnesses, among)
        for each in (books, wallet.books):
            each.learn(asset, issuer.checkpoint() or "", issuer.leaves())
        wallet.make({PAYEE.public_key: AMOUNT}, asset, EPOCH, least=10 * N * AMOUNT)
        cosigned(wallet.log, witnesses, among)
        wallet.ready()
        books.learn(PAYER.public_key, wallet.log.checkpoint() or "", wallet.log.leaves())
        escrow = Escrow(Purse(PAYEE.public_key, among, books))
        stakes, holds = [], []

        def take() -> None:
            for _ in range(N):
                stake = wallet.take(PAYEE.public_key, asset, AMOUNT, EPOCH)
                assert stake is not None
                stakes.append(stake)

        def hold() -> None:
            for stake in stakes:
                proof = SpendProof.decode(stake.proof)
                holds.append(escrow.hold(proof, PAYER.public_key, EPOCH, AMOUNT))

        def close() -> None:
            for n, each in enumerate(holds):
                escrow.close(each, n.to_bytes(16, "big"), AMOUNT // 2)

        def settle() -> None:
            for stake in stakes:
                wallet.settle(stake, AMOUNT // 2)

        print(f"{N} sessions, 4 witnesses of whom 3 must sign, all sessions open at once\n")
        timed("client: a part of an allotment is taken", take)
        timed("node: the proof is judged, the part set aside", hold)
        timed("node: what was promised is claimed, on disk", close)
        timed("client: what was not promised is free again", settle)
        assert books.claimed(stakes[0].oid) == N * (AMOUNT // 2)
        for book in witnesses:
            book.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="Where files lie. Default: the system's place.")
    with tempfile.TemporaryDirectory(dir=parser.parse_args().home) as directory:
        main(Path(directory))
