"""A granted swarm in one process: an issuer, four witnesses, nodes that are paid from allotments.

Nodes and clients are real, over real sockets; witnesses are real books that are asked directly, and
what nodes know of spend logs is told to them by `tell`.
"""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from ledger.cosigning import Cosigned, Witnesses
from ledger.epochs import epoch_now
from ledger.errors import WitnessRefused
from ledger.escrow import Escrow
from ledger.findings import Findings
from ledger.funding import Purse
from ledger.lent import LentWallet
from ledger.policy import GRANTED, OPEN_POLICY, Policy
from ledger.settle_desk import SettleDesk
from ledger.settled import SettledBook
from ledger.spend_books import SpendBooks
from ledger.spend_log import SpendLog
from ledger.spending import Grant
from ledger.told_objects import FAULTS, SETTLEMENTS, KeptFaults, KeptSettlements, ToldObjects
from ledger.wallet import Wallet
from ledger.witness import WitnessBook
from ledger.writer import LedgerWriter
from node.reconciling import Reconciling
from node.settling import Settling
from protocol.announcements import Announcement
from protocol.canonical import encode
from protocol.clock import wall_ms
from protocol.errors import NoQuorum
from protocol.identity import Identity
from protocol.membership.gate import Membership
from protocol.membership.state import SwarmState
from protocol.signing import SigningKey
from protocol.transport.grpc import GrpcTransport
from scheduler.purse import ClientPurse
from tests.announcing import key_of
from tests.local_swarm import Swarm
from tests.membership import certify_key, found

ISSUER = key_of(950)
WITNESSES = {f"w{n}.example": key_of(951 + n) for n in range(4)}


def granted_policy(name: str = "home") -> Policy:
    return replace(
        OPEN_POLICY,
        name=name,
        mode=GRANTED,
        assets=(ISSUER.public_key,),
        issuers=(ISSUER.public_key,),
        witnesses=tuple((name, key.public_key) for name, key in sorted(WITNESSES.items())),
        quorum_k=3,
    )


class BookCosigners:
    """See `scheduler.purse.Cosigners`. away: names of witnesses that do not answer."""

    def __init__(self, books: list[WitnessBook], witnesses: Witnesses) -> None:
        self.books, self.witnesses, self.away = books, witnesses, set[str]()
        self.n_asked = 0
        self.ahead_s = 0  # of our clock

    def _present(self) -> list[WitnessBook]:
        return [book for book in self.books if book.witness.name not in self.away]

    async def check(self, log: SpendLog) -> None:
        for book in self._present():
            if (note := book.latest(log.origin)) is not None:
                log.check_against(note)

    async def cosign(self, log: SpendLog) -> Cosigned:
        self.n_asked += 1
        lines = []
        for book in self._present():
            request = log.request(book.size(log.origin))
            try:
                lines.append(book.add_checkpoint(request, wall_ms() // 1000 + self.ahead_s))
            except WitnessRefused:
                continue
        signed = log.add_cosignatures(lines, self.witnesses)
        if not signed.has_quorum:
            missing = tuple(sorted(self.away))
            raise NoQuorum(f"no word from {', '.join(missing)}", missing, hint="try again")
        return signed


class GrantedSwarm(Swarm):
    """Made by `granted_swarm`."""

    def __init__(self, directory: Path, home: Path) -> None:
        self.policy = granted_policy()
        self.founding = found(
            funding=encode(self.policy.to_fields()),
            witnesses=tuple((name, "http://127.0.0.1:1/") for name in sorted(WITNESSES)),
        )
        super().__init__(directory, home, GrpcTransport, self._member)
        self.swarm_id = SwarmState(self.founding).swarm_id
        self._closing = ExitStack()
        enter = self._closing.enter_context
        witnessed = [
            enter(WitnessBook.open(home / name, name, key, _key_of_origin))
            for name, key in WITNESSES.items()
        ]
        self.cosigners = BookCosigners(witnessed, self.policy.quorum())
        self.issuer = enter(SpendLog.open(home / "issuer", ISSUER, self.swarm_id))
        self.wallets: dict[bytes, Wallet] = {}
        self.pays_from: dict[bytes, SpendLog] = {}  # by clients: another account, its log
        self.books: dict[bytes, SpendBooks] = {}  # of nodes
        self.objects: dict[bytes, ToldObjects] = {}
        self.escrows: dict[bytes, Escrow] = {}
        self.escrow_of, self.purse_of = self._escrow, self._purse
        self.settling_of = self._settling
        self.owners: dict[Path, tuple[SigningKey, bytes]] = {}  # of receipt logs, by place
        self._n_granted = 0

    def _member(self, identity: Identity) -> Membership:
        state = SwarmState(self.founding)
        return Membership(state, certify_key(state, identity.public_key))

    def _escrow(self, identity: Identity, home: Path) -> Escrow:
        self.owners[home] = (identity.key, self.swarm_id)
        books = SpendBooks.open(home, self.swarm_id, self.policy.quorum())
        self._closing.callback(books.close)
        self.books[identity.public_key] = books
        escrow = Escrow(Purse(identity.public_key, self.policy, books))
        self.escrows[identity.public_key] = escrow
        return escrow

    def _settling(self, identity: Identity, home: Path, writer: LedgerWriter) -> Settling:
        books = self.books[identity.public_key]
        desk = SettleDesk(
            home,
            identity.key,
            self.swarm_id,
            self.policy,
            lambda: epoch_now(self.policy, books, wall_ms()),
            lambda receipt: writer.file(receipt).result() and None,
        )
        self._closing.callback(desk.close)
        settled = SettledBook.open(home, self.swarm_id)
        self._closing.callback(settled.close)
        findings = self._closing.enter_context(Findings.open(home, self.swarm_id))
        kept = (
            KeptSettlements(
                settled,
                self.policy,
                books.allotted,
                lambda: epoch_now(self.policy, books, wall_ms()),
                identity.public_key,
            ),
            KeptFaults(findings),
        )
        objects = ToldObjects(dict(zip((SETTLEMENTS, FAULTS), kept, strict=True)), self.swarm_id)
        self.objects[identity.public_key] = objects

        def known() -> list[Announcement]:
            ours = [n.node for n in self.nodes if n.node.peer_id == identity.peer_id]
            return [each for node in ours for each in node.announcements()]

        transport, _ = self._transport(identity)
        reconciling = Reconciling(objects, transport, identity.peer_id, known)

        def clock() -> int:
            return wall_ms() + 1000 * self.cosigners.ahead_s

        return Settling(desk, books, self.policy, self.cosigners, reconciling, clock)

    def _purse(self, identity: Identity, home: Path) -> ClientPurse:
        self.owners[home] = (identity.key, self.swarm_id)
        if (payer := self.pays_from.get(identity.public_key)) is not None:
            lent = LentWallet.open_for(payer.account, home, self.swarm_id, self.policy)
            self._closing.callback(lent.close)

            async def hear() -> None:
                self._learn(lent.books, self.issuer)
                self._learn(lent.books, payer)

            return ClientPurse(lent, self.policy, None, fetch=hear)
        wallet = Wallet.open(home, identity.key, self.swarm_id, self.policy)
        self._closing.callback(wallet.close)
        self.wallets[identity.public_key] = wallet

        async def fetch() -> None:
            self._learn(wallet.books, self.issuer)

        return ClientPurse(wallet, self.policy, self.cosigners, fetch=fetch)

    async def grant(self, key: SigningKey, amount: int, n_told: int | None = None) -> None:
        """Credit for an account, told to so many nodes; to all, if nothing is said."""
        self._n_granted += 1
        granted = Grant(
            issuer=ISSUER.public_key,
            account=key.public_key,
            asset=ISSUER.public_key,
            grant_no=self._n_granted,
            amount=amount,
        )
        self.issuer.append(granted.seal(self.swarm_id, ISSUER))
        await self.cosigners.cosign(self.issuer)
        for books in [*self.books.values()][:n_told]:
            self._learn(books, self.issuer)

    def tell(self, log: SpendLog) -> None:
        """All nodes learn of this log."""
        for books in self.books.values():
            self._learn(books, log)

    @staticmethod
    def _learn(books: SpendBooks, log: SpendLog) -> None:
        note, start = log.checkpoint(), books.size(log.account)
        if note is not None:
            books.learn(log.account, note, log.leaves(start), start=start)

    async def aclose(self) -> None:
        await super().aclose()
        self._closing.close()


def _key_of_origin(origin: str) -> bytes | None:
    return bytes.fromhex(origin.split("/")[2])


@asynccontextmanager
async def granted_swarm(
    directory: Path, home: Path, *spans: tuple[int, int], **more: object
) -> AsyncIterator[GrantedSwarm]:
    built = GrantedSwarm(directory, home)
    try:
        await built.start(*spans, **more)  # type: ignore[arg-type]
        yield built
    finally:
        await built.aclose()
