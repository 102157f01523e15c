"""Finding seats while peers fail: who failed for the moment is asked again, in fair turns."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from protocol.address import Address
from protocol.announcement_table import AnnouncementTable
from protocol.chain_actions import FindRoute, Seat
from protocol.clock import wall_ms
from protocol.constraints import Group
from protocol.errors import (
    ManyhandsError,
    PeerBusy,
    PeerError,
    PeerMisbehaved,
    PeerRefused,
    PeerUnreachable,
    SwarmIncomplete,
    UsageError,
    VersionMismatch,
)
from protocol.messages import Span
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Transport
from protocol.transport.grpc import GrpcTransport
from protocol.transport.memory import Faults, MemoryNetwork
from scheduler.directory import Directory
from scheduler.finder import RouteFinder
from scheduler.request import GenerationRequest
from scheduler.wanted import ANY_PEER, Limits
from tests.announcing import MANIFEST, peer_of, record
from tests.gossiping import identity_of, serve_table

FIRST, LIVE, DEAD = 1, 2, 3  # LIVE and DEAD serve the same blocks, DEAD far cheaper
OTHER = 4  # serves all blocks, in a profile of its own
SPANS = {FIRST: (0, 4), LIVE: (4, 8), DEAD: (4, 8), OTHER: (0, 8)}
CLIENT = 77


def finder(
    *,
    wait_s: float = 5.0,
    room_wait_s: float | None = None,
    peers: Sequence[int] = (FIRST, LIVE, DEAD),
    limits: Limits = ANY_PEER,
) -> RouteFinder:
    """One that knows these peers; none of them can be asked for more."""
    now_ms = wall_ms()
    table = AnnouncementTable(OPEN_SWARM_ID)
    for n in peers:
        stamp = {"sequence": now_ms, "issued_ms": now_ms, "expires_ms": now_ms + 30_000}
        decode_us = 400_000 if n in (LIVE, OTHER) else 1000
        profile = "bfloat16/none" if n == OTHER else "float32/none"
        told = record(n, SPANS[n], decode_us=decode_us, profile=profile, **stamp)
        table.merge(told, sender="", now_ms=now_ms)
    request = GenerationRequest(
        manifest=MANIFEST,
        n_blocks=8,
        prompt_ids=(1,),
        max_tokens=4,
        wait_s=wait_s,
        room_wait_s=room_wait_s,
        limits=limits,
    )
    transport = MemoryNetwork().transport(identity_of(CLIENT), OPEN_SWARM_ID)
    return RouteFinder(request, transport, Directory(table), (), random.Random(1))


def after(avoid: Mapping[int, ManyhandsError], survivors: Sequence[int] = (FIRST,)) -> FindRoute:
    """Blocks 4 to 8 lost their hosts, in this order."""
    seats = tuple(Seat(peer_of(n), Span(*SPANS[n])) for n in survivors)
    missing = Span(4 if survivors else 0, 8)
    return FindRoute(1, (missing,), seats, {peer_of(n): why for n, why in avoid.items()})


def unreachable(n: int) -> PeerUnreachable:
    return PeerUnreachable(peer_of(n), "nobody answers")


async def found(finder: RouteFinder, action: FindRoute) -> list[str]:
    return [seat.peer for seat in await finder.find(action, time.monotonic() + 60)]


async def test_the_cheapest_is_taken_while_nobody_has_failed():
    assert await found(finder(), after({})) == [peer_of(DEAD)]


@pytest.mark.parametrize(
    "why",
    [
        PeerUnreachable("", "it closed the stream"),
        PeerBusy("", "no room"),
        PeerError("", "its predecessor cannot reach it"),
    ],
)
async def test_who_failed_for_the_moment_is_asked_again_before_a_cheaper_one_that_failed_since(why):
    action = after({LIVE: why, DEAD: unreachable(DEAD)})

    assert await found(finder(), action) == [peer_of(LIVE)]


async def test_turns_are_taken():
    asked, search = [], finder()
    lost = {LIVE: unreachable(LIVE), DEAD: unreachable(DEAD)}

    for _ in range(4):
        [peer] = await found(search, after(lost))
        n = next(n for n in lost if peer_of(n) == peer)
        asked.append(n)
        lost[n] = lost.pop(n)  # it fails again, and is now the latest

    assert asked == [LIVE, DEAD, LIVE, DEAD]


async def test_nobody_is_taken_back_who_is_not_needed():
    lost = {DEAD: unreachable(DEAD), FIRST: unreachable(FIRST)}

    assert await found(finder(), after(lost, survivors=())) == [peer_of(FIRST), peer_of(LIVE)]


async def test_a_peer_that_failed_as_late_as_the_wait_has_one_more_turn():
    search = finder(wait_s=0.05, peers=(FIRST, LIVE))
    action = after({LIVE: unreachable(LIVE)})
    await found(search, after({}))
    await asyncio.sleep(0.1)  # an attempt that took longer than there was to wait

    assert await found(search, action) == [peer_of(LIVE)]
    with pytest.raises(SwarmIncomplete) as caught:
        await found(search, action)
    assert caught.value.missing == ((4, 8),)


@pytest.mark.parametrize(
    "why",
    [
        PeerRefused("", "it needs more than this node keeps"),
        VersionMismatch("", "another model"),
        PeerMisbehaved("", "nonsense"),
        UsageError("token ids"),
    ],
)
async def test_a_refusal_for_good_is_said_at_once(why):
    began = time.monotonic()

    with pytest.raises(type(why)):
        await found(finder(peers=(FIRST, LIVE)), after({LIVE: why}))
    assert time.monotonic() - began < 1.0


async def test_who_refused_for_good_is_not_asked_again():
    action = after({LIVE: PeerRefused(peer_of(LIVE), "no"), DEAD: unreachable(DEAD)})

    assert await found(finder(), action) == [peer_of(DEAD)]


async def test_who_has_no_room_is_asked_until_the_deadline_and_not_only_while_others_may_appear():
    search = finder(wait_s=0.0, peers=(FIRST, LIVE))
    action = after({LIVE: PeerBusy(peer_of(LIVE), "a line of prompts")})

    for _ in range(4):
        assert await found(search, action) == [peer_of(LIVE)]
    assert isinstance(search.waits_for, PeerBusy)  # what a deadline meanwhile is told as
    with pytest.raises(PeerBusy, match="a line of prompts"):
        await search.find(action, time.monotonic() - 1)
    search.found()
    assert search.waits_for is None


async def test_room_is_waited_for_no_longer_than_asked_until_the_answer_has_begun():
    search = finder(wait_s=0.0, room_wait_s=0.0, peers=(FIRST, LIVE))
    action = after({LIVE: PeerBusy(peer_of(LIVE), "full")})
    await found(search, action)

    with pytest.raises(PeerBusy, match="full"):
        await found(search, action)
    search.has_begun = lambda: True
    assert await found(search, action) == [peer_of(LIVE)]


async def test_blocks_without_a_host_are_waited_for_no_longer_because_others_are_full():
    search = finder(wait_s=0.0, peers=(FIRST,))
    action = after({FIRST: PeerBusy(peer_of(FIRST), "full")}, survivors=())

    with pytest.raises(SwarmIncomplete):
        await found(search, action)


async def test_a_refusal_says_more_than_a_silence():
    """One host is gone for longer than we wait, the other said why it does not serve."""
    search = finder(wait_s=0.0)
    action = after({LIVE: PeerRefused(peer_of(LIVE), "no"), DEAD: unreachable(DEAD)})
    await found(search, action)

    with pytest.raises(PeerRefused):
        await found(search, action)


async def test_another_profile_may_serve_as_long_as_no_chain_stood():
    search = finder(peers=(FIRST, DEAD, OTHER))
    assert await found(search, after({}, survivors=())) == [peer_of(FIRST), peer_of(DEAD)]

    found_next = await found(search, after({DEAD: unreachable(DEAD)}, survivors=()))

    assert found_next == [peer_of(OTHER)]
    assert search.profile == "bfloat16/none"


async def test_a_chain_that_stood_keeps_its_profile():
    search = finder(peers=(FIRST, DEAD, OTHER))
    await found(search, after({}, survivors=()))
    search.found()

    found_next = await found(search, after({DEAD: unreachable(DEAD)}, survivors=()))

    assert found_next == [peer_of(FIRST), peer_of(DEAD)]


async def asking(transport: Transport, join: Address) -> ManyhandsError:
    """How a search ends that may ask this address alone, and has little time."""
    request = GenerationRequest(manifest=MANIFEST, n_blocks=8, prompt_ids=(1,), timeout_s=0.5)
    empty = Directory(AnnouncementTable(OPEN_SWARM_ID))
    search = RouteFinder(request, transport, empty, (join,), random.Random(1))
    with pytest.raises(ManyhandsError) as caught:
        await search.find(after({}, survivors=()), time.monotonic() + 0.5)
    assert caught.value is search.nobody
    return caught.value


async def test_a_search_that_reached_nobody_says_why_not_that_its_time_is_over():
    nobody = Address("127.0.0.1", 9, peer_of(1))

    error = await asking(GrpcTransport(identity_of(CLIENT), OPEN_SWARM_ID), nobody)

    assert error.exit_code == 4
    assert peer_of(1) in str(error)


async def test_peers_that_are_all_slow_get_longer_the_next_time_they_are_asked():
    network, table, now_ms = MemoryNetwork(), AnnouncementTable(OPEN_SWARM_ID), wall_ms()
    stamp = {"sequence": now_ms, "issued_ms": now_ms, "expires_ms": now_ms + 30_000}
    table.merge(record(LIVE, (0, 8), **stamp), sender="", now_ms=now_ms)
    searching = finder(wait_s=8.0, peers=())
    searching._transport = network.transport(identity_of(CLIENT), OPEN_SWARM_ID)

    async with serve_table(network.transport(identity_of(LIVE), OPEN_SWARM_ID), table) as served:
        searching._join = served[0].addresses
        network.set_faults(Faults(delay_s=(0.3, 0.3)))  # a dial and a call take 1.2 s
        seats = await found(searching, after({}, survivors=()))

    assert seats == [peer_of(LIVE)]


async def test_a_search_that_found_an_impostor_alone_says_so():
    theirs = GrpcTransport(identity_of(1), OPEN_SWARM_ID)
    async with serve_table(theirs, AnnouncementTable(OPEN_SWARM_ID)) as (member, _):
        real = member.addresses[0]
        expected = Address(real.host, real.port, peer_of(2))

        error = await asking(GrpcTransport(identity_of(CLIENT), OPEN_SWARM_ID), expected)

    assert error.exit_code == 8
    assert peer_of(1) in str(error)


def limited(**limits: Any) -> RouteFinder:
    """One whose client asked for some peers alone; it waits for nobody."""
    return finder(wait_s=0.0, limits=Limits(**limits))


async def test_limits_of_a_request_are_kept_and_named_when_nobody_is_left():
    assert await found(limited(avoid=(peer_of(DEAD),)), after({})) == [peer_of(LIVE)]
    assert await found(limited(require=(peer_of(LIVE),)), after({})) == [peer_of(LIVE)]

    lab = Group("lab")
    for limits in ({"regions": ("eu",)}, {"groups": (lab,)}, {"require": (peer_of(OTHER),)}):
        with pytest.raises(SwarmIncomplete) as caught:
            await found(limited(**limits), after({}))
        assert caught.value.constraint in ("region", "group", "require")


async def test_a_required_peer_that_stays_in_the_chain_is_not_asked_for_again():
    assert await found(limited(require=(peer_of(FIRST),)), after({})) == [peer_of(DEAD)]
