"""What pays for a session, where an issuer's credit does: looked at before it is admitted.

In: a request, with the allotment that its client shows. Out: how much of that is set aside for it,
or a refusal that says what is missing: an allotment, more of it, or the log that it stands in.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from ledger.epochs import epoch_now
from ledger.escrow import Escrow, Hold
from ledger.funding import SpendProof
from ledger.meter import Usage
from ledger.objects import Offer
from ledger.opening import most
from node.sessions import Sessions
from protocol.clock import wall_ms
from protocol.errors import CreditUnknown, NotFunded
from protocol.identity import public_key_from_peer_id
from protocol.messages import TOKEN_BYTES, Reserve

CatchUp = Callable[[], Awaitable[None]]


async def hold_for(
    reserve: Reserve, client: str, sessions: Sessions, catch_up: CatchUp
) -> Hold | None:
    """Of the allotment shown; None: what is asked for costs nothing.

    catch_up: hear what others know, where our books know of too little credit.

    Raises:
        ManyhandsError: the refusal. `LogNeeded`: show more of the log, and ask again.
    """
    till = sessions.till
    assert till.escrow is not None
    offer = Offer.open(till.offer(), till.swarm_id, till.key.public_key)
    if offer.rates.is_free:
        return None
    if not reserve.funding.proof:
        raise NotFunded(
            "",
            "sessions here are paid from an allotment, and none was shown",
            hint="ask your issuer for a grant: manyhands ledger grant, where its key is",
        )
    sessions.check(reserve, client)  # nobody looks at proofs for whom there is no room
    cost = most_for(offer, reserve, sessions.served.row_bytes)
    hold = partial(_hold, till.escrow, reserve, client, cost)
    try:
        return await _held(hold, till.escrow)
    except CreditUnknown:
        await catch_up()
        return await _held(hold, till.escrow)


async def _held(hold: Callable[[], Hold], escrow: Escrow) -> Hold:
    """On a thread, which goes on when its caller is cancelled: what it holds then is let go."""
    holding = asyncio.ensure_future(asyncio.to_thread(hold))
    try:
        return await asyncio.shield(holding)
    except asyncio.CancelledError:
        escrow.drop(await holding)
        raise


def most_for(offer: Offer, reserve: Reserve, row_bytes: int) -> int:
    """What the session can cost at most, in ncr."""
    n_prompt = 0 if reserve.client_ends else reserve.capacity - reserve.max_tokens
    usage = Usage.opened(len(reserve.span), reserve.capacity, reserve.budget_ms / 1000)
    row_bytes = TOKEN_BYTES if reserve.is_first else row_bytes
    return most(offer, usage, n_prompt, reserve.capacity, row_bytes)


def _hold(escrow: Escrow, reserve: Reserve, client: str, cost: int) -> Hold:
    key, shown = public_key_from_peer_id(client), reserve.funding
    proof = SpendProof.decode(shown.proof)
    payer = proof.payer  # another account's, where the client's key pays for that
    if shown.leaves:
        escrow.learn(payer, proof, shown.leaves, shown.start)
    now_ms = wall_ms()
    epoch = epoch_now(escrow.purse.policy, escrow.purse.books, now_ms)
    return escrow.hold(proof, payer, epoch, cost, key=key, until_ms=now_ms + reserve.budget_ms)
