"""The table of announcements as a member keeps it: of those alone who may provide."""

from protocol.announcement_table import AnnouncementTable
from protocol.identity import PeerId
from protocol.membership.gate import Membership
from protocol.membership.roles import Role


def new_table(swarm_id: bytes, membership: Membership | None) -> AnnouncementTable:
    """Without a membership, of a swarm to which everybody belongs."""
    if membership is None:
        return AnnouncementTable(swarm_id)

    def may_announce(peer_id: PeerId, certificate: bytes) -> bool:
        return membership.may(peer_id, certificate, Role.PROVIDE)

    table = AnnouncementTable(swarm_id, may_announce=may_announce)
    membership.watch(table.judge_again)
    return table
