"""Where others reach this node: what it announces of it, and how it finds out.

In: where it listens, what its operator says, what a router was asked for, what peers who dialled
back saw. Out: addresses, best first, and the verdict that is announced with them. Until somebody
tried, the addresses are announced as they are; one that peers dialled in vain goes, as long as
another is left.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from node.dialling_back import DiallingBack
from node.ports import PortMapper
from node.reachability import Finding
from node.reaching import Reaching, ReachTiming, directly
from protocol.address import Address, Endpoint
from protocol.announcements import MAX_ADDRESSES, Announcement
from protocol.dialling_back import METHOD
from protocol.identity import PeerId
from protocol.reachability import Reach, Scope, scope_of
from protocol.transport import Listener, SeenCallHandler, Transport
from protocol.transport.one_port import OnePort

DOUBT = "; whether strangers get through shows when one does: until then relays carry it as well"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What a node may use besides its listener.

    one_port: None where there are no real sockets. mapper: asks the router for a port.
    """

    announce: tuple[str, int] | None = None
    mapper: PortMapper | None = None
    one_port: Callable[[], OnePort] | None = None
    timing: ReachTiming | None = None


class Whereabouts:
    """See the module."""

    def __init__(
        self,
        transport: Transport,
        others: Callable[[], Sequence[Announcement]],
        changed: Callable[[], None],
        ways: Ways,
    ) -> None:
        """
        Args:
            others: who serves now, but this node.
            changed: called when there is something else to announce.
        """
        self._peer_id, self._announce, self._others = transport.peer_id, ways.announce, others
        self.mapper, self._changed = ways.mapper, changed
        self._listener: Listener | None = None
        self._dialling_back = DiallingBack(transport, self.own)
        self._reaching = Reaching(
            transport,
            others,
            self.own,
            self._ports,
            changed,
            one_port=ways.one_port,
            timing=ways.timing,
        )

    @property
    def seen_calls(self) -> Mapping[str, SeenCallHandler]:
        return {METHOD: self._dialling_back.handle}

    def came(self, peer_id: PeerId, seen: Endpoint) -> None:
        """A caller that the listener has admitted."""
        self._reaching.came(peer_id, seen)

    def listening(self, listener: Listener) -> None:
        self._listener = listener

    async def run(self) -> None:
        """Until cancelled; then a port at the router is given back."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reaching.run())
            if self.mapper is not None and (own := self.own()):
                tasks.create_task(self.mapper.run(own[0].port, self._mapped))

    async def ask(self) -> None:
        """Have peers dial back now."""
        await self._reaching.round()

    def _mapped(self) -> None:
        """The router has given or taken a port."""
        self._reaching.hurry()
        self._changed()

    # --- what is known ----------------------------------------------------------------------------

    @property
    def finding(self) -> Finding:
        return self._reaching.finding

    def own(self) -> tuple[Address, ...]:
        """Where it listens, at addresses of this machine."""
        return self._listener.addresses if self._listener is not None else ()

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Best first: those that peers confirmed, then those that might be."""
        own = self.own()
        if self._announce is not None and own:
            return (Address(*self._announce, self._peer_id),)
        confirmed = [
            Address(each.host, each.port, self._peer_id) for each in self.finding.confirmed
        ]
        refuted = {(each.host, each.port) for each in self.finding.refuted}
        mapped = [Address(*each, self._peer_id) for each in self._external()]
        known = tuple(dict.fromkeys([*confirmed, *mapped, *own]))
        left = tuple(each for each in known if (each.host, each.port) not in refuted)
        return (left or known)[:MAX_ADDRESSES]

    @property
    def reach(self) -> Reach:
        """What to announce of it."""
        finding, n_confirmed = self.finding, 0
        for address in self.addresses:
            if not self._is_confirmed(address):
                break
            n_confirmed += 1
        return Reach(verdict=finding.verdict, nat=finding.nat, n_confirmed=n_confirmed)

    @property
    def may_be_hidden(self) -> bool:
        """Whether relays should carry it, as well or at all.

        A port that its operator or its router opened is open to all; of one that peers merely found
        open, that is not known before a stranger comes; nor of one that too few have dialled.
        """
        is_undecided = self.finding.is_undecided
        return self._is_doubted() or is_undecided or not self.reach.is_dialable

    @property
    def is_likely_hidden(self) -> bool:
        """Before anybody has tried: whether peers have addresses of the world, and it has none.

        Those who ask and those who dial need some six seconds, in which relays can carry it. A home
        whose router forwards its port would keep them until a stranger comes, anyway.
        """
        if self._announce is not None or self._external() or self.finding.witnesses:
            return False
        scopes = {scope_of(address.host) for address in self.own()}
        return scopes == {Scope.NETWORK} and any(
            scope_of(address.host) is Scope.WORLD
            for peer in self._others()
            for address in directly(peer)
        )

    def status(self) -> dict[str, object]:
        """For `manyhands status`, and whoever wonders."""
        finding = self.finding
        return {
            "verdict": finding.verdict.value,
            "nat": finding.nat.value,
            "why": finding.why + (DOUBT if self._is_doubted() else ""),
            "at": _time_of_day(finding.at_s),
            "confirmed": [str(each) for each in finding.confirmed],
            "refuted": [str(each) for each in finding.refuted],
            "seen_hosts": list(finding.seen_hosts),
            "stranger": finding.stranger or None,
            "may_be_hidden": self.may_be_hidden,
            "witnesses": [
                {
                    "peer": each.peer_id,
                    "endpoint": str(each.endpoint),
                    "outcome": each.outcome.value,
                    "ms": round(each.took_us / 1000, 1),
                    "reason": each.reason,
                }
                for each in finding.witnesses
            ],
            "port_mapping": self.mapper.status() if self.mapper is not None else None,
            "dialled_for_others": self._dialling_back.n_dialled,
            "declined": self._dialling_back.n_declined,
        }

    def _ports(self) -> tuple[int, ...]:
        """At which others would dial it, likeliest first."""
        announced = [self._announce[1]] if self._announce is not None else []
        external = self.mapper.external if self.mapper is not None else None
        mapped = [external.port] if external is not None else []
        return tuple(dict.fromkeys([*announced, *mapped, *(each.port for each in self.own())]))

    def _is_doubted(self) -> bool:
        """Whether a port was found open that nobody is known to have opened."""
        confirmed = self.finding.confirmed
        opened = any(Endpoint(*each) in confirmed for each in self._external())
        return self.finding.is_doubtful and self._announce is None and not opened

    def _external(self) -> tuple[tuple[str, int], ...]:
        """Where the router says that it takes connections for us, unless peers see us elsewhere."""
        external = self.mapper.external if self.mapper is not None else None
        seen = {host for host in self.finding.seen_hosts if scope_of(host) is Scope.WORLD}
        if external is None or (seen and external.host not in seen):
            return ()
        return ((external.host, external.port),)

    def _is_confirmed(self, address: Address) -> bool:
        """A name counts as confirmed with any port of another machine's address: the router's."""
        if address.family != "dns4":
            return Endpoint(address.host, address.port) in self.finding.confirmed
        own = {each.host for each in self.own()}
        confirmed = self.finding.confirmed
        return any(each.port == address.port and each.host not in own for each in confirmed)


def _time_of_day(at_s: float) -> str | None:
    """Of a moment of the monotonic clock, for people; None if it never was."""
    if not at_s:
        return None
    at = datetime.now(UTC).timestamp() - (time.monotonic() - at_s)
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
