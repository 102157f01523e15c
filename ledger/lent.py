"""What a client pays with that pays for another account: allotments which that account made.

In: the account's spend log, as our books have it. Out: stakes, as of a wallet of our own. Nothing
is set aside here: that is signed with the account's key, which is elsewhere. What several keys take
of one allotment none of them knows; its payee does, and never serves beyond it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from ledger.funding import SpendProof
from ledger.policy import Policy
from ledger.spend_books import SpendBooks
from ledger.store import Store, translated
from ledger.wallet import SCHEMA, Wallet
from protocol.canonical import MAX_UINT
from protocol.errors import NotFunded, UsageError
from protocol.identity import peer_id_from_public_key
from protocol.signing import Envelope


class LentLog:
    """Another account's spend log, to read; see `wallet.WalletLog`.

    As far as our books have a checkpoint of it: what came of a longer one proves nothing yet.
    """

    def __init__(self, books: SpendBooks, account: bytes) -> None:
        self._books, self.account, self.swarm_id = books, account, books.swarm_id

    def __len__(self) -> int:
        return self._books.noted(self.account)

    def leaves(self, start: int = 0, stop: int = MAX_UINT) -> list[bytes]:
        stop = min(stop, len(self))
        return [leaf.encode() for leaf in self._books.leaves(self.account)[start:stop]]

    def prove(self, oid: bytes) -> SpendProof:
        """See `SpendLog.prove`."""
        found = self._books.proven(self.account, oid)
        if found is None:
            raise UsageError(f"no entry {oid.hex()} is known of the log of {self.account.hex()}")
        leaf, path, note = found
        return SpendProof(leaf, tuple(path), note)

    def checkpoint(self) -> str | None:
        return None  # our books have what there is

    def append(self, *envelopes: Envelope) -> str:
        """Raises UsageError: who pays for another account writes nothing in its log."""
        raise UsageError("an account's spend log is written where its key is")

    def close(self) -> None:
        """The books are closed by whoever opened them."""


class LentWallet(Wallet):
    """Use `open_for`, and `close` in the end. It waits for disks."""

    @classmethod
    def open_for(cls, account: bytes, directory: Path, swarm_id: bytes, policy: Policy) -> Self:
        """Of this account, beside our own.

        Raises:
            DamagedLedger, ForeignLedger, LedgerBusy, ConfigError: it cannot be used.
        """
        books = SpendBooks.open(directory, swarm_id, policy.quorum())
        try:
            path = directory / f"wallet-{account.hex()[:16]}.sqlite"
            with translated(path):
                store = Store.open(path, create=True, schema=SCHEMA)
        except BaseException:
            books.close()
            raise
        wallet = cls(directory, store, LentLog(books, account), books)
        wallet.close_abandoned()
        return wallet

    def available(self, asset: bytes) -> int:
        """0: nothing can be set aside here."""
        return 0

    def make(self, wants: Mapping[bytes, int], asset: bytes, epoch: int, least: int = 0) -> None:
        """Look whether the account has set aside what is needed.

        Raises:
            NotFunded: it has not; nothing can be set aside here.
        """
        self.ready()
        for payee, amount in wants.items():
            if self.largest(payee, asset, epoch) < amount:
                account, name = (peer_id_from_public_key(key) for key in (self.log.account, payee))
                raise NotFunded(
                    "",
                    f"the session may cost {amount} ncr, and {account} has not set so much aside"
                    f" for {name}",
                    hint=f"where its key is: manyhands ledger allot {name} AMOUNT",
                )

    def learn(self) -> None:
        """Our books have been told of it by others."""
