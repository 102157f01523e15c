"""Faults, told on among nodes: each keeps those that convince it, and hears what others have.

In: calls of peers, one peer to ask every moment. Out: faults in this home's findings, and peers in
quarantine, who are at fault by their own signatures or by the word of an auditor trusted here.
Nothing is believed because a peer says so: each fault is judged when it comes. What a peer may tell
is bounded before a signature is looked at.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ledger.errors import DamagedLedger
from ledger.fault_words import ID_BYTES, METHOD, Asked, decode_told, encode_told, fitting
from ledger.findings import KeptOpen
from ledger.homes import KEY_NAME
from ledger.judging import Finding
from protocol.announcements import Announcement
from protocol.errors import IntegrityError, ManyhandsError, PeerBusy, PeerMisbehaved
from protocol.guard import Allowance, Budget, Guard
from protocol.identity import PeerId, peer_id_from_public_key
from protocol.key_files import read_public_key
from protocol.rate_limits import Limit
from protocol.signing import Envelope
from protocol.transport import CallHandler, Transport
from protocol.transport.paths import paths_of

if TYPE_CHECKING:
    from node.serving import Standing

log = logging.getLogger(__name__)

EVERY_S, TIMEOUT_S = 20.0, 10.0
CHECKS = 8  # signatures of a fault, at most
TELLS = Budget(
    calls=Limit(per_s=1, burst=20),
    bytes=Limit(per_s=64 * 1024, burst=1 << 20),
    checks=Limit(per_s=50, burst=1000),
)
QUARANTINE = 1e6  # as offences are weighed: always enough


class Accusations:
    """Of one node. `run` it while the node is up."""

    def __init__(
        self,
        directory: Path,
        swarm_id: bytes,
        transport: Transport,
        others: Callable[[], Sequence[Announcement]],
        guard: Guard,
        *,
        trusted: frozenset[bytes],
        quarantine: bool = True,
        hears: bool = True,
    ) -> None:
        """directory: of the node's findings. others: who serves now, but this node. trusted: whose
        verdicts are enough. quarantine: not to hear who is at fault. hears: ask peers for more."""
        self.calls: dict[str, CallHandler] = {METHOD: self.handle}
        self._findings = KeptOpen(directory, swarm_id)
        self._transport, self._others, self._guard = transport, others, guard
        self._trusted, self._quarantine, self._hears = trusted, quarantine, hears
        self._tells = Allowance(TELLS)

    @classmethod
    async def begun(
        cls, standing: "Standing", others: Callable[[], Sequence[Announcement]], guard: Guard
    ) -> Self:
        """Of a node, that trusts its own home's verdicts, and whom its owner named."""
        directory = await asyncio.wrap_future(standing.books.ask(lambda books: books.directory))
        settings = standing.settings
        own, clients = {standing.identity.public_key, *settings.auditors}, settings.clients
        if clients is not None and (key := clients / KEY_NAME).exists():
            own.add(read_public_key(key))
        return cls(
            directory,
            standing.swarm_id,
            standing.transport,
            others,
            guard,
            trusted=frozenset(own),
            quarantine=settings.quarantine,
            hears=not standing.policy.issuers,  # there, `reconciling` does
        )

    async def handle(self, peer: PeerId, request: bytes) -> bytes:
        """
        Raises:
            PeerBusy: it tells too much. PeerMisbehaved: what it tells does not convince.
            DamagedLedger: our findings cannot be read.
        """
        if not self._tells.admit(peer, len(request)):
            raise PeerBusy("", "too much about faults from you", hint="try again shortly")
        try:
            asked = Asked.decode(request)
            self._tells.owe(peer, n_checks=CHECKS * len(asked.told))
            answer = await asyncio.to_thread(self._answer, asked)
        except DamagedLedger:
            raise  # our own disk, which is nobody else's offence
        except IntegrityError as error:
            raise PeerMisbehaved(peer, f"a fault that is none: {error}") from error
        if asked.told:
            await self.keep_out()
        return answer

    def _answer(self, asked: Asked) -> bytes:
        findings = self._findings.get()
        for each in asked.told:
            findings.add(each, trusted=self._trusted)
        lacking = asked.lacking(findings.ids())
        some = random.sample(lacking, min(CHECKS, len(lacking)))  # it may want none of these
        return encode_told(fitting(findings.told(some)))

    async def keep_out(self) -> None:
        """Hear nobody who is at fault; bans end, and begin again as long as the fault is known."""
        if not self._quarantine:
            return
        for accused, finding in (await asyncio.to_thread(self._at_fault)).items():
            peer_id = peer_id_from_public_key(accused)
            self._guard.offended(peer_id, f"at fault: {finding.what}", QUARANTINE)

    def _at_fault(self) -> dict[bytes, Finding]:
        return self._findings.get().at_fault(self._trusted)

    async def run(self) -> None:
        """Until cancelled; no peer's failure ends it."""
        while True:
            await self.keep_out()
            await asyncio.sleep(EVERY_S * random.uniform(0.8, 1.2))
            if self._hears and (peers := [peer for peer in self._others() if peer.addresses]):
                await self.hear(random.choice(peers))

    async def hear(self, peer: Announcement) -> None:
        """Ask a peer for faults that we do not know."""
        try:
            connection = await paths_of(self._transport).dial(
                peer.peer_id, peer.to_dial, timeout_s=TIMEOUT_S
            )
            try:
                known = await asyncio.to_thread(self._known)
                answer = await connection.call(METHOD, known.encode(), timeout_s=TIMEOUT_S)
            finally:
                await connection.aclose()
            await asyncio.to_thread(self._learn, decode_told(answer))
        except DamagedLedger as error:
            log.error("our findings cannot be used", extra={"why": str(error)})
        except IntegrityError as error:
            self._guard.failed(peer.peer_id, PeerMisbehaved(peer.peer_id, str(error)))
        except ManyhandsError as error:
            log.debug("no news of faults", extra={"peer": peer.peer_id, "why": str(error)})

    def _known(self) -> Asked:
        return Asked(frozenset(id_[:ID_BYTES] for id_ in self._findings.get().ids()))

    def _learn(self, told: Sequence[Envelope]) -> None:
        findings = self._findings.get()
        for each in told:
            findings.add(each, trusted=self._trusted)
