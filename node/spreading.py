"""A node's part in keeping all spend logs alike: what it is told, asked, and hears from others.

In: calls of peers, a few peers to ask every moment. Out: books that hold every log as far as a
quorum cosigned it and anybody told it, proofs of forks, and, where this node is a witness,
cosignatures. Each peer is bounded in calls, bytes, logs and signatures before one is looked at.
What holds is decided by `ledger.spend_books`; disks are waited for on threads.
"""

import asyncio
import logging
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ledger.errors import DamagedLedger
from ledger.spend_books import SpendBooks
from ledger.spend_learning import Learner
from ledger.spend_news import Changes
from ledger.spend_words import (
    FAULT,
    FAULT_PATH,
    INSTANCE_BYTES,
    LOG,
    NEWS,
    PUBLISH,
    WITNESS,
    Known,
    Published,
    Since,
    Wanted,
    encode_answer,
    read_fault,
)
from ledger.witness import WitnessBook
from ledger.witness_http import ADD_CHECKPOINT, answer
from node.hearing import hear
from protocol.address import Address
from protocol.announcements import Announcement
from protocol.errors import (
    ConfigError,
    IntegrityError,
    ManyhandsError,
    PeerBusy,
    PeerMisbehaved,
    PeerRefused,
    UsageError,
)
from protocol.guard import Allowance, Budget, Guard
from protocol.identity import PeerId
from protocol.rate_limits import Limit, RateLimit
from protocol.transport import CallHandler, Transport
from protocol.transport.paths import paths_of

log = logging.getLogger(__name__)
T = TypeVar("T")

EVERY_S, TIMEOUT_S = 2.0, 10.0
CATCH_UP_PEERS, CATCH_UP_S = 3, 1.0  # asked out of turn, and how often at most
MAX_PARTNERS = 1024  # of whom we remember how far we heard them
# Of one peer. Whoever tells of logs costs signatures: its checkpoint's, and each leaf's.
READS = Budget(calls=Limit(per_s=100, burst=2_000), bytes=Limit(per_s=4 * 2**20, burst=128 * 2**20))
TELLS = Budget(
    calls=Limit(per_s=5, burst=50),
    bytes=Limit(per_s=128 * 1024, burst=8 * 2**20),
    checks=Limit(per_s=50, burst=20_000),
)
NEW_LOGS = Limit(per_s=1 / 30, burst=20)
COSIGNS = Budget(calls=Limit(per_s=5, burst=50))


class Spreading:
    """`run` it for as long as the node is up."""

    def __init__(
        self,
        books: SpendBooks,
        transport: Transport,
        others: Callable[[], Sequence[Announcement]],
        join: Sequence[Address] = (),
        *,
        witness: WitnessBook | None = None,
        guard: Guard | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """others: who serves now, but this node. witness: ours, if the swarm's policy names it."""
        self.calls: Mapping[str, CallHandler] = {
            LOG: self._log,
            NEWS: self._news,
            PUBLISH: self._published,
            FAULT: self._fault,
            **({WITNESS: self._witness} if witness else {}),
        }
        self._books, self._shelf = books, books.shelf
        self._changes = Changes(secrets.token_bytes(INSTANCE_BYTES), self._shelf)
        books.watch(self._changes.look)
        self._learner = Learner(books)
        self._transport, self._others, self._witness_book = transport, others, witness
        self._join = [address for address in join if address.peer_id != transport.peer_id]
        self._guard, self._rng = guard, rng or random.Random()
        self._reads, self._tells, self._cosigns = map(Allowance, (READS, TELLS, COSIGNS))
        self._new_logs = RateLimit(NEW_LOGS)
        self._heard: OrderedDict[PeerId, Since] = OrderedDict()
        self._catching_up, self._caught_up_s = asyncio.Lock(), float("-inf")

    # --- what others ask and tell -----------------------------------------------------------------

    async def _log(self, peer: PeerId, request: bytes) -> bytes:
        self._admit(self._reads, peer, 0)
        wanted = _read(peer, Wanted.decode, request)
        try:
            if wanted.path == FAULT_PATH:
                found = await asyncio.to_thread(self._shelf.fault, wanted.account) or b""
            else:
                found = await asyncio.to_thread(self._shelf.fetch, wanted.account, wanted.path)
        except UsageError as error:
            raise PeerRefused("", str(error)) from error
        self._reads.owe(peer, n_bytes=len(found))
        return found

    async def _news(self, peer: PeerId, request: bytes) -> bytes:
        self._admit(self._reads, peer, 0)
        told = self._changes.since(_read(peer, Since.decode, request)).encode()
        self._reads.owe(peer, n_bytes=len(told))
        return told

    async def _published(self, peer: PeerId, request: bytes) -> bytes:
        """
        Raises:
            PeerBusy: it tells too much. PeerMisbehaved: what it tells does not hold.
            PeerRefused: no quorum has cosigned it yet, or the account forked.
        """
        self._admit(self._tells, peer, len(request))
        told = _read(peer, Published.decode, request)
        self._tells.owe(peer, n_checks=len(told.leaves))
        # On threads, also what looks cheap: a reader waits while another transaction is written.
        if await asyncio.to_thread(self._learner.is_new, told.account):
            self._admit_log(peer)
        learned = await asyncio.to_thread(self._learner.take, told)
        # Also what a command of this home wrote into our books.
        await asyncio.to_thread(self._changes.look, told.account)
        if learned.error is not None and not learned.is_forked:
            if not learned.is_honest:
                raise PeerMisbehaved(peer, str(learned.error))
            raise PeerRefused("", str(learned.error))
        return Known(learned.size, learned.is_forked).encode()

    async def _fault(self, peer: PeerId, request: bytes) -> bytes:
        self._admit(self._tells, peer, len(request))
        fault = _read(peer, read_fault, request)
        if await asyncio.to_thread(self._learner.is_new, fault.accused):
            self._admit_log(peer)  # keys that fork are as free to make as keys that do not
        try:
            await asyncio.to_thread(self._learner.believe, fault)
        except IntegrityError as error:
            raise PeerMisbehaved(peer, f"a fork that is none: {error}") from error
        return b""

    async def _witness(self, peer: PeerId, request: bytes) -> bytes:
        assert self._witness_book is not None
        self._admit(self._cosigns, peer, 0)
        book, now_s = self._witness_book, int(time.time())
        return encode_answer(
            await asyncio.to_thread(answer, book, "POST", ADD_CHECKPOINT, request, now_s, peer)
        )

    def _admit(self, allowance: Allowance, peer: PeerId, n_bytes: int) -> None:
        if not allowance.admit(peer, n_bytes):
            raise PeerBusy("", "too much about spend logs from you", hint="try again shortly")

    def _admit_log(self, peer: PeerId) -> None:
        """One that is new to us: accounts are free to make, our disk is not."""
        if not self._new_logs.take(peer, 1.0, time.monotonic()):
            raise PeerBusy("", "too many new spend logs from you", hint="try again in a minute")

    # --- what we hear -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled; no peer's failure ends it."""
        while True:
            for addresses in self._partners():
                await self._hear(addresses)
            await asyncio.sleep(EVERY_S * self._rng.uniform(0.8, 1.2))

    async def catch_up(self) -> None:
        """Hear a few now: what a payer shows may rest on a grant that we have not heard of. Who
        asks while a round is under way waits for that one."""
        async with self._catching_up:
            if time.monotonic() - self._caught_up_s > CATCH_UP_S:
                await asyncio.gather(*map(self._hear, self._partners(CATCH_UP_PEERS)))
                self._caught_up_s = time.monotonic()

    def _partners(self, n: int = 1) -> list[Sequence[Address]]:
        """Of those who serve; at first, of those we were told of."""
        known = {peer.peer_id: peer.to_dial for peer in self._others() if peer.addresses}
        known |= {address.peer_id: (address,) for address in self._join if not known}
        return self._rng.sample(list(known.values()), min(n, len(known)))

    async def _hear(self, addresses: Sequence[Address]) -> None:
        peer_id = addresses[0].peer_id
        try:
            paths = paths_of(self._transport)
            connection = await paths.dial(peer_id, addresses, timeout_s=TIMEOUT_S)
            try:
                since = self._heard.get(peer_id, Since())
                self._heard[peer_id] = await hear(connection, self._learner, since)
                self._heard.move_to_end(peer_id)
            finally:
                await connection.aclose()
        except (DamagedLedger, ConfigError) as error:
            log.error("our books of spend logs cannot be used", extra={"why": str(error)})
        except PeerMisbehaved as error:
            why = {"peer": peer_id, "why": str(error)}
            log.warning("told false things of spend logs", extra=why)
            if self._guard is not None:
                self._guard.failed(peer_id, error)
        except ManyhandsError as error:
            log.debug("no news of spend logs", extra={"peer": peer_id, "why": str(error)})
        while len(self._heard) > MAX_PARTNERS:
            self._heard.popitem(last=False)


def _read(peer: PeerId, read: Callable[[bytes], T], told: bytes) -> T:
    try:
        return read(told)
    except IntegrityError as error:
        raise PeerMisbehaved(peer, str(error)) from error
