"""Who owes this node how much, kept up to date, and told to those it is about.

In: the node's log as it was at the start, tallies and kin on disk (`manyhands ledger paid` writes
there while the node runs), the log of the clients that share its home, what peers show. Out:
`Debts`, which `credit.py` judges by, and answers to peers. Disks are read on a thread.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ledger.debts import Debts, Passed, Sums
from ledger.homes import KEY_NAME
from ledger.log import Ledger
from ledger.objects import NO_ASSET
from ledger.places import is_there
from ledger.reader import FILE_NAME, LedgerReader
from ledger.tallies import Tallies
from ledger.tally import Kin, Tally, open_kin, open_tally
from ledger.trust import Trust, edges_of, weigh
from ledger.writer import LedgerWriter
from node.credit import DAY_MS, Credit, Today
from node.settings import NodeSettings
from protocol.clock import wall_ms
from protocol.errors import IntegrityError, ManyhandsError
from protocol.identity import Identity, PeerId, public_key_from_peer_id
from protocol.key_files import read_public_key
from protocol.owing import MAX_TOLD, Showing
from protocol.owing import Owing as Told
from protocol.signing import Envelope

log = logging.getLogger(__name__)

LOOK_S = 2.0  # between looks at what was written beside us
WEIGH_S = 10.0  # between weighings of what others say, unless they say something new
FULL_S = 60.0  # no room is made again for so long where there was none to make


class _Seen(NamedTuple):
    tallies: list[tuple[Tally, bool]]
    kin: list[Kin]
    of_clients: Sums | None  # None: as before


class OwingBook:
    """Of one node that asks for money. Use `open`; `run` it while the node lives."""

    def __init__(
        self, identity: Identity, swarm_id: bytes, books: LedgerWriter, clients: Path | None
    ) -> None:
        """clients: where the clients of the same home have key and log; None: there are none."""
        self._identity, self._swarm_id, self._books = identity, swarm_id, books
        self._clients = clients
        self._tallies: Tallies | None = None
        self._clients_size, self._of_clients = -1, dict[bytes, Passed]()
        self._version: object = None
        self._known: tuple[list[tuple[Tally, bool]], list[Kin]] = ([], [])
        self.today = Today()
        self._credit: Credit | None = None
        self.debts = Debts(self._keys(), {})
        self._trust: Trust | None = None  # None: nobody vouches for anybody
        self._between: dict[tuple[bytes, bytes], int] = {}  # what others signed
        self._weighed_version: object = None
        self._weighed_at_s = 0.0
        self._full_until_s = 0.0

    def load(self) -> None:
        """What the log comes to; blocks while the disk is read."""
        day = wall_ms() // DAY_MS
        sums, recent = self._books.ask(lambda ledger: _sums(ledger, day)).result()
        self.debts = Debts(self._keys(), sums)
        for client, passed in recent.items():
            self.today.add(client, passed.earned, wall_ms())
        self._tallies = self._books.ask(
            lambda ledger: Tallies.open(ledger.directory, ledger.swarm_id, self.debts.ours)
        ).result()
        self._take(self._read())
        self._trust = self._weighed()()

    def close(self) -> None:
        if self._tallies is not None:
            self._tallies.close()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                try:
                    await self._look()
                except ManyhandsError as error:
                    log.warning("debts could not be read again", extra={"error": str(error)})
        finally:
            self.close()

    def vouched(self, key: bytes, most: int) -> int:
        """What others say that somebody was worth, as far as they were to us: up to `most` ncr."""
        return self._trust.lends(key, most) if self._trust else 0

    def credit(self, settings: NodeSettings) -> Credit:
        """The rules by which whoever asks for a span's work is lent."""
        self._credit = Credit(self.debts, settings.limits, settings.rates, self.today, self.vouched)
        return self._credit

    async def handle(self, peer: PeerId, request: bytes) -> bytes:
        """What the caller owes, once what it shows is taken in.

        Raises:
            PeerMisbehaved, IntegrityError: what it shows does not hold.
        """
        shown, client = Showing.decode(request, sender=peer), public_key_from_peer_id(peer)
        if shown.kin or shown.tallies:
            await asyncio.to_thread(self._keep, shown, client)
            await self._look()
        pair = self.debts.with_(client)
        told = self.debts.of_node.get(client)
        others = await asyncio.to_thread(self._mutual)
        return Told(
            owed_ncr=max(0, pair.owes),
            credit_ncr=self._credit.credit(client) if self._credit else 0,
            tally=await asyncio.to_thread(self._own_word, client, told.earned) if told else b"",
            others=tuple(others),
        ).encode()

    # --- on a thread ------------------------------------------------------------------------------

    def _read(self) -> _Seen:
        assert self._tallies is not None
        version = self._tallies.version()
        if version != self._version:
            self._version = version
            self._known = list(self._tallies.all()), list(self._tallies.kin())
        of_clients, told_clients = self._read_clients()
        return _Seen([*self._known[0], *told_clients], self._known[1], of_clients)

    def _keys(self) -> set[bytes]:
        """Of our home."""
        keys = {self._identity.public_key}
        path = self._clients / KEY_NAME if self._clients is not None else None
        if path is not None and path.is_file():
            keys.add(read_public_key(path))
        return keys

    def _read_clients(self) -> tuple[Sums | None, list[tuple[Tally, bool]]]:
        """Of the clients of our home, whose log other processes write."""
        directory = self._clients
        if directory is None or not is_there(directory, FILE_NAME):
            return None, []
        with LedgerReader.read(directory) as reader:
            if reader.swarm_id != self._swarm_id:
                return None, []
            if (size := len(reader)) != self._clients_size:
                self._clients_size, self._of_clients = size, reader.sums(NO_ASSET)
        with Tallies.open(directory, self._swarm_id) as tallies:
            return self._of_clients, list(tallies.all())

    def _keep(self, shown: Showing, client: bytes) -> None:
        assert self._tallies is not None
        parties = {client}
        if shown.kin:
            kin = open_kin(Envelope.decode(shown.kin), self._swarm_id)
            if client not in (kin.client, kin.node):
                raise IntegrityError("that is the kin of somebody else")
            if kin.node in self.debts.ours or kin.client in self.debts.ours:
                raise IntegrityError("that is no kin of ours")
            self._tallies.introduce(Envelope.decode(shown.kin))
            parties = {kin.client, kin.node}
        self._make_room(self._tallies)
        for data in shown.tallies:
            tally, is_mutual = open_tally(Envelope.decode(data), self._swarm_id)
            if parties.isdisjoint((tally.payer, tally.payee)):
                raise IntegrityError("that is the tally of others")
            if is_mutual:
                self._tallies.keep(Envelope.decode(data))

    def _make_room(self, tallies: Tallies) -> None:
        now_s, debts = time.monotonic(), self.debts
        if now_s < self._full_until_s or not tallies.is_full:
            return
        n_gone = tallies.make_room(debts.edges(), dict(debts.node_of))
        if tallies.is_full:
            self._full_until_s = now_s + FULL_S
        log.info("tallies that nothing flows by are dropped", extra={"tallies": n_gone})

    def _own_word(self, client: bytes, earned: int) -> bytes:
        """Our tally of what we did for this client, and what it settled."""
        assert self._tallies is not None
        ours = self._identity.public_key
        held = self._tallies.settled(client, ours, NO_ASSET)
        settled = open_tally(held, self._swarm_id)[0].settled if held else 0
        said = Tally(payer=client, payee=ours, served=earned, settled=settled, issued_ms=wall_ms())
        return said.seal(self._swarm_id, self._identity.key).encode()

    def _mutual(self) -> list[bytes]:
        assert self._tallies is not None
        return self._tallies.mutual(MAX_TOLD)

    # --- on the loop ------------------------------------------------------------------------------

    async def _look(self) -> None:
        self._take(await asyncio.to_thread(self._read))
        now_s = time.monotonic()
        if self._version != self._weighed_version or now_s - self._weighed_at_s > WEIGH_S:
            self._weighed_version, self._weighed_at_s = self._version, now_s
            self._trust = await asyncio.to_thread(self._weighed())

    def _take(self, seen: _Seen) -> None:
        for kin in seen.kin:
            self.debts.introduce(kin)
        for tally, _ in seen.tallies:
            self.debts.take(tally)
        if seen.of_clients is not None:
            self.debts.of_clients = seen.of_clients
        mutual = (tally for tally, is_mutual in seen.tallies if is_mutual)
        self._between = edges_of(mutual, self.debts.ours)

    def _weighed(self) -> Callable[[], Trust | None]:
        """What makes the trust of this moment, on any thread; of nobody, where nobody vouches."""
        if not self._between:
            return lambda: None
        debts, between = self.debts, self._between
        return partial(weigh, between, debts.edges(), debts.ours, dict(debts.node_of), debts.owed())


def _sums(ledger: Ledger, day: int) -> tuple[Sums, Sums]:
    return ledger.sums(), ledger.sums(from_epoch=day)
