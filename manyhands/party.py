"""Who somebody of this home is to others: a key, and a place in a swarm.

In: a home, and which of its two parties. Out: an identity with its membership, if its swarm has
members, and the transports and tables that go with both. A home whose `membership/` holds nothing
is of the swarm `open`, to which everybody belongs.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from manyhands.home import Home, open_identity
from protocol.errors import ConfigError, ManyhandsError, PeerRefused
from protocol.identity import Identity, PeerId
from protocol.signing import OPEN_SWARM_ID

if TYPE_CHECKING:
    from ledger.policy import Policy
    from protocol.address import Address
    from protocol.membership.gate import Membership
    from protocol.membership.roles import Role
    from protocol.path_book import Met
    from protocol.transport.grpc import GrpcTransport
    from scheduler.directory import Directory

HEARD_OF, HEAR_S = 4, 2.0  # peers that are tried, one after the other
Who = Literal["node", "client"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Party:
    """The node or the clients of a home, ready to meet others."""

    home: Home
    identity: Identity
    membership: "Membership | None" = None

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    @property
    def swarm_id(self) -> bytes:
        return self.membership.swarm_id if self.membership else OPEN_SWARM_ID

    @property
    def policy(self) -> "Policy":
        """How sessions are paid for in our swarm."""
        from ledger.swarms import funding_of

        return funding_of(self.membership.state.policy if self.membership else None)

    def transport(self, *features: str) -> "GrpcTransport":
        """features: that it has besides those that all of this version have."""
        from protocol.transport.greeting import FEATURES
        from protocol.transport.grpc import GrpcTransport

        known = FEATURES.union(features)
        return GrpcTransport(self.identity, self.swarm_id, features=known, gate=self.membership)

    def directory(self) -> "Directory":
        """An empty one."""
        from protocol.membership.table import new_table
        from scheduler.directory import Directory

        membership = self.membership
        return Directory(
            new_table(self.swarm_id, membership),
            groups_of=membership.groups_of if membership else None,
        )

    @property
    def certifies_groups(self) -> bool:
        """Whether certificates show who is in a trust group; else a peer's word is all there is."""
        return self.membership is not None

    def require(self, role: "Role") -> None:
        """Return if we may do this in our swarm.

        Raises:
            PeerRefused: our certificate does not say so.
        """
        membership = self.membership
        if membership is not None and not membership.may(self.peer_id, membership.credential, role):
            raise PeerRefused(
                "",
                f"your membership in swarm {membership.state.policy.name} does not let you {role}",
                hint=f"ask for an invite: manyhands swarm invite --role {role}",
            )

    async def hear(self, join: "Sequence[Address]" = ()) -> None:
        """Ask somebody what the swarm says now, if it has rules that a command goes by; that nobody
        answers is nobody's fault."""
        membership = self.membership
        if membership is None or not membership.state.governance.is_strict:
            return
        from manyhands.membership import known_addresses
        from protocol.membership.exchange import exchange

        transport = self.transport()
        for address in tuple(dict.fromkeys((*join, *known_addresses(self.home))))[:HEARD_OF]:
            with suppress(ManyhandsError):
                connection = await transport.dial(address, timeout_s=HEAR_S)
                try:
                    await exchange(connection, membership, timeout_s=HEAR_S)
                finally:
                    await connection.aclose()
                break
        self.remember()

    def remember(self, met: "Met | None" = None) -> None:
        """Keep what was learned of the swarm for the next start; an answer is not lost by it."""
        if self.membership is not None:
            from manyhands.membership import NOBODY, keep_state

            try:
                keep_state(self.home, self.membership.state, met or NOBODY)
            except ConfigError as error:
                log.warning("what was heard of the swarm is not kept", extra={"why": str(error)})


def open_party(home: Home, who: Who) -> Party:
    """
    Raises:
        InsecureHome, ConfigError, IntegrityError: its files cannot be used.
        MembershipEnded, NotAMember: it does not belong to its swarm any more.
    """
    identity = open_identity(home.node if who == "node" else home.client)
    if not (home.root / "membership").exists():
        return Party(home, identity)
    from manyhands.membership import open_membership

    return Party(home, identity, open_membership(home, who, identity))
