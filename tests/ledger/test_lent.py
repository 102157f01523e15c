"""What a key that pays for another account knows of that account's allotments (test 49)."""

import pytest

from ledger.funding import Purse, SpendProof
from ledger.lent import LentWallet
from ledger.merkle import inclusion_proof
from ledger.spend_books import SpendBooks
from tests.ledger.spenders import ANN, ASSET, BEN, CY, SWARM, allot, chained, grant
from tests.ledger.test_funding import EPOCH, POLICY
from tests.ledger.test_spend_books import learn, signed, tree

QUORUM = (0, 1, 2)
ACCOUNT = ANN.public_key


@pytest.mark.parametrize("n_known", [0, 1])
def test_49_a_log_that_came_in_part_proves_what_its_known_checkpoint_is_of(memory_path, n_known):
    """Whoever told it went away in between; the longer log's checkpoint is not there yet."""
    first, later = (allot(ANN, BEN, n, no=n, expires_epoch=EPOCH) for n in (60, 30))
    more = [allot(ANN, CY, 1, no=n, expires_epoch=EPOCH) for n in range(8)]
    leaves = [leaf.encode() for leaf in chained(first, later, *more)]
    note = signed(ACCOUNT, leaves, QUORUM)
    with (
        SpendBooks.open(memory_path / "key", SWARM, POLICY.quorum()) as books,
        LentWallet.open_for(ACCOUNT, memory_path / "key", SWARM, POLICY) as wallet,
    ):
        learn(books, ASSET, chained(grant(ANN, 100)), signers=QUORUM)
        if n_known:
            learn(books, ACCOUNT, chained(first), signers=QUORUM)
        path = inclusion_proof(5, len(leaves), tree(leaves))
        books.learn(ACCOUNT, note, leaves[n_known:6], start=n_known, path=path)

        assert wallet.ready()
        in_part = wallet.largest(BEN.public_key, ASSET, EPOCH)
        books.learn(ACCOUNT, note, leaves[6:], start=6)
        assert wallet.ready()

        assert in_part == (60 if n_known else 0)
        assert wallet.largest(BEN.public_key, ASSET, EPOCH) == 60
        purse = Purse(BEN.public_key, POLICY, books)
        for amount in (60, 30):
            stake = wallet.take(BEN.public_key, ASSET, amount, EPOCH)
            assert stake is not None
            funded = purse.judge(SpendProof.decode(stake.proof), ACCOUNT, EPOCH)
            assert funded.limit_ncr == amount
