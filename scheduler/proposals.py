"""What a session says when it asks for a place in a hop, and when it takes it.

In: what the rules want, the request, the settlement's signatures. Out: `Reserve` and `Commit`, as
hops understand them. A hop that takes a leaver's place gets the client's note to it, and so does a
spare that copies from a hop.
"""

import secrets

from protocol.asking import MAX_ADDRESSES, Extensions, Handover, PrefixNames
from protocol.chain_actions import Seat, SendCommit
from protocol.chain_session import ChainSession
from protocol.codec import ids_to_bytes
from protocol.handover import Note
from protocol.identity import public_key_from_peer_id
from protocol.messages import Commit, Reserve
from protocol.spare import SpareNote
from scheduler.request import GenerationRequest
from scheduler.settlement import Settlement


def reserve_message(
    request: GenerationRequest,
    settlement: Settlement,
    seat: Seat,
    epoch: int,
    *,
    budget_ms: int,
    profile: str,
    adapter: str,
    prefixes: PrefixNames,
    handover: Handover,
    has_begun: bool,
) -> Reserve:
    draws = seat.span.stop == request.n_blocks  # nobody else needs to know
    return Reserve(
        session=settlement.session,
        epoch=epoch,
        manifest=request.manifest,
        span=seat.span,
        n_blocks=request.n_blocks,
        capacity=request.capacity,
        max_tokens=request.max_tokens,
        budget_ms=budget_ms,
        client_nonce=secrets.token_bytes(16),
        salt_commit=settlement.salt_commit,
        profile=profile,
        ignore_eos=request.ignore_eos,
        sampling=request.sampling.message(),
        stops=request.stops,
        extensions=request.draw_extensions(adapter) if draws else Extensions(adapter=adapter),
        prefixes=prefixes,
        handover=handover,
        hears_leaving=not request.reads_prompt,  # an heir would not have read it
        constraints=settlement.constraints,
        min_tokens=request.min_tokens,
        stop_token_ids=request.stop_token_ids,
        traceparent=request.traceparent,
        has_begun=has_begun,
    )


def has_begun(rules: ChainSession) -> bool:
    """Whether hops that lend room to answers under way see in the commit that this is one: there
    are tokens, or rows of a client that holds the ends."""
    return rules.cached is not None and len(rules.ids) != rules.n_prompt


def taking_over(
    settlement: Settlement, seat: Seat, epoch: int, leaver: Seat | None, *, most_drafts: int
) -> Handover:
    """What `leaver` has run goes to `seat`, which takes its place in that epoch."""
    if leaver is None:
        return Handover()
    note = Note(
        session=settlement.session,
        epoch=epoch,
        giver=public_key_from_peer_id(leaver.peer),
        taker=public_key_from_peer_id(seat.peer),
        span=seat.span,
        most_drafts=most_drafts,
    )
    return _handover(leaver, settlement.sealed(note))


def copying(settlement: Settlement, seat: Seat, epoch: int, giver: Seat, stop: int) -> Handover:
    """Rows `[0, stop)` of `giver`, which serves in that epoch, are copied by `seat`."""
    note = SpareNote(
        session=settlement.session,
        epoch=epoch,
        giver=public_key_from_peer_id(giver.peer),
        taker=public_key_from_peer_id(seat.peer),
        span=seat.span,
        stop=stop,
    )
    return _handover(giver, settlement.sealed(note))


def _handover(giver: Seat, note: bytes) -> Handover:
    return Handover(peer=giver.peer, addresses=giver.addresses[:MAX_ADDRESSES], note=note)


def commit_message(
    commit: SendCommit,
    rules: ChainSession,
    settlement: Settlement,
    route: bytes,
    terms: bytes,
    records: bytes,
) -> Commit:
    is_end = bool(commit.ids) or commit.next.peer == rules.hops[0].peer
    return Commit(
        epoch=commit.epoch,
        length=commit.length,
        next_length=commit.next_length,
        n=commit.n,
        n_prompt=rules.n_prompt,
        previous=commit.previous,
        next=commit.next.peer,
        next_addresses=commit.next.addresses,
        route=route,
        salt=settlement.salt,
        terms=terms,
        ids=ids_to_bytes(commit.ids),
        history=ids_to_bytes(commit.history),
        records=records,
        digest=b"" if is_end else settlement.digest(ids_to_bytes(rules.ids)),
    )
