"""Where a home of a swarm with members begins another time: with whom it met."""

import asyncio
import random
from pathlib import Path

import pytest

from manyhands.home import Home, open_identity
from manyhands.membership import MAX_ADDRESSES, enter, keep_state, known_addresses
from node.belonging import Belonging, Place
from node.registrar import Registrar
from protocol.address import Address
from protocol.identity import Identity
from protocol.membership.certificates import Verdict
from protocol.membership.gate import Membership
from protocol.membership.state import SwarmState
from protocol.transport.memory import MemoryNetwork
from tests.announcing import announce, key_of, peer_of
from tests.membership import certify, found, framed, rule


def at(peer_id: str, port: int = 31400) -> Address:
    return Address("192.0.2.1", port, peer_id)


@pytest.fixture
def home(tmp_path) -> Home:
    place = Home.at(tmp_path)
    enter(place, SwarmState(found()), {}, [at(peer_of(1))])
    return place


def test_a_home_that_meets_nobody_but_itself_still_knows_the_others(home):
    own = open_identity(home.node).peer_id
    state = SwarmState(found())

    keep_state(home, state, [at(peer_of(2))])
    for _ in range(2):
        keep_state(home, state, [at(own)])
        keep_state(home, state)

    assert known_addresses(home) == (at(peer_of(2)), at(peer_of(1)))


def test_whom_it_met_last_comes_first_and_one_address_of_each_before_a_second_of_any(home):
    many = [at(peer_of(2), port) for port in range(1, 20)]

    keep_state(home, SwarmState(found()), [*many, at(peer_of(3))])

    kept = known_addresses(home)
    assert kept[:3] == (many[0], at(peer_of(3)), at(peer_of(1)))
    assert len(kept) == MAX_ADDRESSES


async def test_a_node_writes_down_where_members_are_also_while_nothing_is_ruled():
    """Also one that nobody asks anything from: its inviter may be gone when it starts again."""
    state = SwarmState(found())
    membership = Membership(state, certify(state, 1))
    kept: list[tuple[Address, ...]] = []

    async def keep(membership: Membership, found: tuple[Address, ...]) -> None:
        kept.append(found)

    identity = Identity(key_of(1))
    place = Place(
        membership=membership,
        transport=MemoryNetwork().transport(identity, state.swarm_id),
        registrar=Registrar(membership, identity.key, Path("/dev/null")),
        keep=keep,
    )
    others = [announce(2, addresses=(at(peer_of(2)),))]
    belonging = Belonging(place, lambda: others, rng=random.Random(1))
    running = asyncio.create_task(belonging.run())
    while not any(kept):
        await asyncio.sleep(0.01)
        membership.merge(framed(rule(state, 3, Verdict.REVOKED)))  # wakes it
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert next(filter(None, kept)) == (at(peer_of(2)),)
