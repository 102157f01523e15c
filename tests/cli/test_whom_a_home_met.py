"""Where a home of a swarm with members begins another time: with whom it met."""

import asyncio
import random
from pathlib import Path

import pytest

from manyhands.acquaintances import MAX_PEERS, NAME
from manyhands.home import Home, open_identity
from manyhands.membership import DIRECTORY, LOCK, enter, keep_state, known_addresses
from node.belonging import Belonging, Place
from node.registrar import Registrar
from protocol.address import Address
from protocol.errors import ConfigError
from protocol.identity import Identity, PeerId
from protocol.membership.certificates import Verdict
from protocol.membership.gate import Membership
from protocol.membership.state import SwarmState
from protocol.path_book import Met
from protocol.transport import Service, Transport
from protocol.transport.memory import MemoryNetwork
from tests.announcing import announce, key_of, peer_of
from tests.membership import certify, found, framed, rule

INVITER = peer_of(1)


def at(peer_id: PeerId, port: int = 31400, host: str = "192.0.2.1") -> Address:
    return Address(host, port, peer_id)


def reached(*addresses: Address, silent: frozenset[PeerId] = frozenset()) -> Met:
    return Met(addresses, silent)


def peers_of(home: Home) -> list[PeerId]:
    return [address.peer_id for address in known_addresses(home)]


@pytest.fixture
def home(tmp_path) -> Home:
    place = Home.at(tmp_path)
    enter(place, SwarmState(found()), {}, [at(peer_of(1))])
    return place


def test_a_home_that_meets_nobody_but_itself_still_knows_the_others(home):
    own = open_identity(home.node).peer_id
    state = SwarmState(found())

    keep_state(home, state, reached(at(peer_of(2))))
    for _ in range(2):
        keep_state(home, state, reached(at(own)))
        keep_state(home, state)

    assert known_addresses(home) == (at(peer_of(2)), at(INVITER))


def test_keys_that_have_a_passphrase_are_not_asked_for_it(home, monkeypatch):
    open_identity(home.node), open_identity(home.client)
    monkeypatch.setattr("manyhands.membership.open_identity", None)  # a node asks every minute

    keep_state(home, SwarmState(found()), reached(at(peer_of(2))))

    assert peers_of(home) == [peer_of(2), INVITER]


def test_whom_it_knows_longest_stay_while_they_answer_however_many_others_do(home):
    state = SwarmState(found())
    for n in range(2, 60):  # as one member with many certificates would
        keep_state(home, state, reached(at(peer_of(n))))

    kept = peers_of(home)
    assert len(kept) == MAX_PEERS
    assert kept[0] == peer_of(59)
    assert kept[-3:] == [peer_of(3), peer_of(2), INVITER]


def test_who_does_not_answer_goes_only_when_others_who_do_need_the_room(home):
    state, silent = SwarmState(found()), frozenset({INVITER})
    for n in range(2, 2 + MAX_PEERS - 1):
        keep_state(home, state, reached(at(peer_of(n)), silent=silent))
    before = peers_of(home)

    keep_state(home, state, reached(at(peer_of(40)), silent=silent))

    assert INVITER in before
    assert INVITER not in peers_of(home)
    assert len(peers_of(home)) == MAX_PEERS


def test_of_each_peer_the_address_that_worked_comes_first_and_one_of_another_kind_stays(home):
    public, near = at(peer_of(2), host="8.8.8.8"), at(peer_of(2), host="192.168.1.9")
    state = SwarmState(found())
    keep_state(home, state, reached(public))

    for port in range(1, 9):
        keep_state(home, state, reached(at(near.peer_id, port, near.host)))

    assert known_addresses(home) == (at(near.peer_id, 8, near.host), at(INVITER), public)


@pytest.mark.parametrize("verdict", [Verdict.REVOKED, Verdict.DENIED])
def test_whom_an_admin_sent_off_is_neither_dialled_nor_kept(home, verdict):
    state = SwarmState(found())
    keep_state(home, state, reached(at(peer_of(2))))
    state.learn(rule(state, 2, verdict))

    keep_state(home, state)
    assert peers_of(home) == [INVITER]

    keep_state(home, state, reached(at(peer_of(3)), at(peer_of(2))))
    assert peers_of(home) == [peer_of(3), INVITER]
    assert peer_of(2) not in (home.root / DIRECTORY / NAME).read_text()


def test_a_line_that_cannot_be_read_takes_no_other_with_it(home):
    file = home.root / DIRECTORY / NAME
    file.write_bytes(b"\xff\xfe\n/of/a/later/version\n" + file.read_bytes() + b"\0")

    assert peers_of(home) == [INVITER]
    keep_state(home, SwarmState(found()), reached(at(peer_of(2))))
    assert peers_of(home) == [peer_of(2), INVITER]


def test_a_lock_that_cannot_be_held_is_told_as_what_its_owner_must_mend(home):
    (home.root / DIRECTORY / LOCK).mkdir()  # nobody opens that to write, root neither

    with pytest.raises(ConfigError, match="cannot hold"):
        keep_state(home, SwarmState(found()))


async def test_a_node_writes_down_whom_it_reached_and_a_full_disk_does_not_end_it():
    """Not whom others speak of: only those who answered where it dialled."""
    state, network = SwarmState(found()), MemoryNetwork()
    kept: list[Met] = []
    n_tries = 0

    async def keep(membership: Membership, met: Met) -> None:
        nonlocal n_tries
        n_tries += 1
        if n_tries <= 2:
            raise OSError(24, "Too many open files")
        kept.append(met)

    def belonging_of(n: int, membership: Membership, *join: Address) -> tuple[Belonging, Transport]:
        identity = Identity(key_of(n))
        transport = network.transport(identity, state.swarm_id)
        registrar = Registrar(membership, identity.key, Path("/dev/null"))
        place = Place(membership=membership, transport=transport, registrar=registrar, keep=keep)
        return Belonging(place, lambda: others, join, rng=random.Random(1)), transport

    membership, theirs = (Membership(state, certify(state, n)) for n in (1, 2))
    other, transport = belonging_of(2, theirs)
    listener = await transport.listen("192.0.2.1", 31400, Service(calls=other.calls, streams={}))
    others = [announce(3, addresses=(at(peer_of(3)),))]
    belonging, _ = belonging_of(1, membership, *listener.addresses)
    running = asyncio.create_task(belonging.run())
    for n in range(1_000):
        if any(met.reached for met in kept):
            break
        await asyncio.sleep(0.01)
        assert not running.done()
        membership.merge(framed(rule(state, 100 + n, Verdict.REVOKED)))  # wakes it
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await listener.aclose()

    assert {met.reached for met in kept if met.reached} == {listener.addresses}
