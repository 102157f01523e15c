"""How members keep their states of the swarm alike: one small call, the method `METHOD`.

A question is the digest of what the asker holds, then, if it has any, what it thinks the other
lacks. The answer is empty when both hold the same, else a digest and what the answerer holds.
"""

from protocol.errors import IntegrityError, PeerMisbehaved
from protocol.membership.gate import Membership
from protocol.membership.state import DIGEST_BYTES
from protocol.transport.interface import Connection

METHOD = "swarm"


def answer(membership: Membership, request: bytes, *, sender: str) -> bytes:
    """The answer to a member's question.

    Raises:
        PeerMisbehaved: it sent what no admin made.
    """
    _take(membership, request, sender)
    state = membership.state
    return b"" if request[:DIGEST_BYTES] == state.digest else state.digest + state.encode()


async def exchange(connection: Connection, membership: Membership, *, timeout_s: float) -> bool:
    """Hold what the other side holds, and the other way round; whether we heard any news.

    Raises:
        PeerMisbehaved: it sent what no admin made.
        ManyhandsError: it cannot be reached, or refuses us.
    """
    state = membership.state
    told = await connection.call(METHOD, state.digest, timeout_s=timeout_s)
    if not told:
        return False
    is_news = _take(membership, told, connection.peer_id)
    if told[:DIGEST_BYTES] != state.digest:
        await connection.call(METHOD, state.digest + state.encode(), timeout_s=timeout_s)
    return is_news


def _take(membership: Membership, told: bytes, sender: str) -> bool:
    if len(told) < DIGEST_BYTES:
        raise PeerMisbehaved(sender, "a state begins with its digest")
    try:
        return membership.merge(told[DIGEST_BYTES:])
    except IntegrityError as error:
        raise PeerMisbehaved(sender, f"a state that does not hold: {error}") from error
