"""Finding out whether strangers can dial this node: peers are asked to dial it back.

In: who serves, and where this node listens. Out: findings of `Reachability`. Three peers are asked
at the start, every ten minutes, and when this node's address has changed, here or as others see it;
more where they disagree. They are drawn from different networks where there are some: two dialers
in one place have one opinion. All questions of a round leave from one local port where that can be
had, so that their answers also tell how a router before this node maps it.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from node.reachability import QUORUM, Finding, Reachability, Sample
from protocol.address import Address, Endpoint
from protocol.announcements import Announcement
from protocol.dialling_back import METHOD, Answer, Outcome, Question
from protocol.errors import ManyhandsError, PeerRefused
from protocol.identity import PeerId
from protocol.reachability import Scope, Verdict, network_of, scope_of
from protocol.transport import Connection, Transport
from protocol.transport.one_port import OnePort

log = logging.getLogger(__name__)

ASK_S = 4.0  # to get through to who is asked: as long as it tries itself
ANSWER_S = 8.0  # the asked one dials for half of it
MAX_BATCHES = 3  # of questions in one round
MAX_PORTS = 3
MAX_MET = 10_000  # hosts


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachTiming:
    """When peers are asked."""

    start_s: float = 2.0  # gossip has brought the first peers by then
    every_s: float = 600.0
    again_s: float = 15.0  # at first, while there is no verdict; each time twice as long
    glance_s: float = 15.0  # between looks at our own addresses
    weigh_s: float = 1.0  # between looks at what was said, while that does not suffice
    seen_every_s: float = 120.0  # between questions of how we are seen
    n_asked: int = 3


class Reaching:
    """`now_s` is of one monotonic clock."""

    def __init__(
        self,
        transport: Transport,
        others: Callable[[], Sequence[Announcement]],
        own: Callable[[], Sequence[Address]],
        ports: Callable[[], Sequence[int]],
        changed: Callable[[], None],
        *,
        one_port: Callable[[], OnePort] | None = None,
        timing: ReachTiming | None = None,
        now_s: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """
        Args:
            others: who serves now, but this node.
            own: where this node listens, at addresses of its own machine.
            ports: at which others would dial it, likeliest first.
            changed: called when there is another finding to announce.
            one_port: makes connections of which the source port is the same; None: it cannot be.
        """
        self._transport, self._others, self._own, self._ports = transport, others, own, ports
        self._changed, self._one_port = changed, one_port
        self._timing = timing or ReachTiming()
        self._now_s, self._rng = now_s, rng or random.Random()
        self._known = Reachability()
        self._unable: set[PeerId] = set()  # older peers, who do not know the call
        self._met: dict[str, None] = {}  # hosts of those who serve, or did
        self._familiar: set[PeerId] = set()  # callers who are no strangers
        self._in_vain: set[PeerId] = set()  # who could not be dialled, the last time we tried
        self._again = asyncio.Event()
        self._told: tuple[object, ...] = ()
        self._hosts: tuple[str, ...] = ()
        self.finding = Finding()

    def hurry(self) -> None:
        """Something changed, a forwarded port perhaps: do not wait for the next round."""
        self._again.set()

    def came(self, peer_id: PeerId, seen: Endpoint) -> None:
        """Somebody got through to our port.

        A stranger is who serves nothing and shares no address with a peer that does, or did: those
        we may have sent to, over libp2p too, and what we have sent to, a router may let in. Relays
        and tunnels bring callers from this machine, neighbours come from this network.
        """
        is_news = self.finding.is_doubtful and peer_id not in self._familiar
        if not is_news or scope_of(seen.host) is not Scope.WORLD:
            return
        self._remember()
        is_peer = any(peer.peer_id == peer_id for peer in self._others())
        if is_peer or seen.host in self._met or seen.host in self.finding.seen_hosts:
            self._familiar.add(peer_id)  # until the next round
            return
        log.info("a stranger got through", extra={"host": seen.host})
        self._known.let_in(seen.host, self._now_s())
        self._find()

    def _remember(self) -> None:
        """Where those are who serve: they may leave, and come back as if we had never met."""
        for peer in self._others():
            self._met.update(dict.fromkeys(address.host for address in peer.addresses))
        while len(self._met) > MAX_MET:
            del self._met[next(iter(self._met))]

    async def run(self) -> None:
        """Until cancelled; no peer's failure ends it."""
        await asyncio.sleep(self._timing.start_s * self._rng.uniform(0.8, 1.2))
        wait_s = self._timing.again_s
        while True:
            await self.round()
            is_known = self.finding.verdict is not Verdict.UNKNOWN
            wait_s = self._timing.every_s if is_known else min(2 * wait_s, self._timing.every_s)
            if not self._dialers():  # the first peer that comes is asked soon
                wait_s = self._timing.again_s
            if await self._rest(wait_s * self._rng.uniform(0.8, 1.2)):
                wait_s = self._timing.again_s

    async def round(self) -> None:
        """Ask a few peers, and more while they do not agree."""
        self._familiar.clear()
        self._remember()
        asked: list[Announcement] = []
        samples: list[Sample] = []
        one_port = self._one_port() if self._one_port else None
        self._in_vain &= {peer.peer_id for peer in self._dialers()}
        if not self._willing(()):
            self._unable.clear()  # some may have been updated
        for _ in range(MAX_BATCHES):
            chosen = choose_dialers(
                self._willing(asked), self._timing.n_asked, self._rng, beside=asked
            )
            if not chosen:
                break
            asked += chosen
            found = await asyncio.gather(*(self._ask(peer, one_port) for peer in chosen))
            samples += [sample for sample in found if sample is not None]
            self._find()
            if self._is_clear():
                break
        self._known.sampled(samples, at_s=self._now_s())
        self._tell()

    async def glance(self) -> None:
        """Ask one peer how it sees us, which costs it nothing; another address is news."""
        before = self.finding.seen_hosts
        if not before:
            return
        for peer in choose_dialers(self._willing(()), 1, self._rng):
            await self._ask(peer, None, dials=False)
        self._find()
        if set(self.finding.seen_hosts) - set(before):
            log.info("a peer sees this node elsewhere", extra={"hosts": self.finding.seen_hosts})
            self._again.set()

    def _dialers(self) -> list[Announcement]:
        """Who can be asked at all: whom we dial directly."""
        return [peer for peer in self._others() if directly(peer) and peer.reach.is_dialable]

    def _willing(self, asked: Sequence[Announcement]) -> list[Announcement]:
        before = {peer.peer_id for peer in asked} | self._unable
        return [peer for peer in self._dialers() if peer.peer_id not in before]

    def _is_clear(self) -> bool:
        """Whether two, or all there are, said the same of some address, and none said otherwise."""
        finding = self.finding
        said = {(each.endpoint, each.reached) for each in finding.witnesses}
        n_witnesses = len({each.peer_id for each in finding.witnesses})
        is_unanimous = all((endpoint, not reached) not in said for endpoint, reached in said)
        return finding.verdict is not Verdict.UNKNOWN and is_unanimous and n_witnesses >= QUORUM

    async def _ask(
        self, peer: Announcement, one_port: OnePort | None, *, dials: bool = True
    ) -> Sample | None:
        """All our questions to one peer; how it saw us, if that was from our one port."""
        towards = directly(peer)[0]
        try:
            if one_port is None:
                connection = await self._transport.dial(towards, timeout_s=ASK_S)
                await self._converse(connection, dials=dials)
                self._in_vain.discard(peer.peer_id)
                return None
            async with one_port.towards(towards) as near:
                connection = await self._transport.dial(near, timeout_s=ASK_S)
                answer = await self._converse(connection, dials=dials)
            self._in_vain.discard(peer.peer_id)
            return Sample(towards.host, answer.seen) if answer and answer.seen else None
        except PeerRefused:
            self._unable.add(peer.peer_id)
        except (ManyhandsError, OSError) as error:
            self._in_vain.add(peer.peer_id)
            log.debug("not dialled back", extra={"peer": peer.peer_id, "why": str(error)})
        return None

    async def _converse(self, connection: Connection, *, dials: bool) -> Answer | None:
        answer = None
        try:
            for port in self._ports()[:MAX_PORTS] if dials else (0,):
                data = await connection.call(METHOD, Question(port).encode(), timeout_s=ANSWER_S)
                answer = Answer.decode(data, sender=connection.peer_id)
                self._known.answered(connection.peer_id, port, answer, at_s=self._now_s())
                self._find()  # others may take longer to answer
                if self.finding.verdict is not Verdict.UNKNOWN:
                    self._tell()
                if answer.outcome is Outcome.REACHED:
                    break
        finally:
            await connection.aclose()
        return answer

    # --- in between -------------------------------------------------------------------------------

    async def _rest(self, wait_s: float) -> bool:
        """Until the next round is due (False), or something makes it due (True)."""
        until_s = self._now_s() + wait_s
        seen_at_s = self._now_s()
        n_dialers = len(self._dialers())
        while (left_s := until_s - self._now_s()) > 0:
            try:
                async with asyncio.timeout(min(left_s, self._pause_s())):
                    await self._again.wait()
            except TimeoutError:
                pass
            self._tell()
            if self._now_s() - seen_at_s >= self._timing.seen_every_s:
                seen_at_s = self._now_s()
                self._remember()
                await self.glance()
            if self._has_moved() or self._again.is_set() or self._has_company(n_dialers):
                self._again.clear()
                return True
        return False

    def _pause_s(self) -> float:
        """What one peer said may suffice once the others have turned out to be hidden."""
        is_open = self.finding.verdict is Verdict.UNKNOWN and self.finding.witnesses
        return min(self._timing.glance_s, self._timing.weigh_s if is_open else math.inf)

    def _has_moved(self) -> bool:
        """Whether this machine's addresses are others than at the last look."""
        hosts, before = tuple(address.host for address in self._own()), self._hosts
        self._hosts = hosts
        if not before or set(hosts) == set(before):
            return False
        log.info("this machine has other addresses", extra={"hosts": hosts})
        self._known.moved()
        self._tell()
        return True

    def _has_company(self, n_before: int) -> bool:
        """Whether there are enough to ask at last."""
        return n_before < QUORUM <= len(self._dialers())

    def _find(self) -> None:
        hosts = {address.host for address in self._own()}
        dialers = {peer.peer_id for peer in self._dialers()}
        silent = dialers & self._in_vain
        self.finding = self._known.finding(
            hosts,
            len(dialers),
            self._now_s(),
            n_silent=len(silent),
            n_near=len(self._known.neighbours(dialers - silent)),
        )

    def _tell(self) -> None:
        """Log and announce what differs from last time."""
        self._find()
        finding = self.finding
        told = (finding.verdict, finding.nat, finding.confirmed, finding.refuted)
        if told == self._told:
            return
        self._told = told
        fields = {"verdict": finding.verdict.value, "nat": finding.nat.value, "why": finding.why}
        is_bad = finding.verdict in (Verdict.NAT, Verdict.FIREWALLED)
        log.log(logging.WARNING if is_bad else logging.INFO, "reachability", extra=fields)
        self._changed()


def choose_dialers(
    willing: Sequence[Announcement],
    n_peers: int,
    rng: random.Random,
    *,
    beside: Iterable[Announcement] = (),
) -> list[Announcement]:
    """Up to `n_peers`, each from a network of its own as long as there are such; drawn at random.

    beside: who was asked before: their networks come last.
    """
    used = {network_of(directly(peer)[0].host) for peer in beside}
    shuffled = rng.sample(list(willing), len(willing))
    chosen: list[Announcement] = []
    rest: list[Announcement] = []
    for peer in shuffled:
        network = network_of(directly(peer)[0].host)
        if network in used:
            rest.append(peer)
        else:
            used.add(network)
            chosen.append(peer)
    return [*chosen, *rest][:n_peers]


def directly(peer: Announcement) -> tuple[Address, ...]:
    """Its addresses without a relay: through one, nobody sees where a question comes from."""
    return tuple(address for address in peer.addresses if not address.relay)
