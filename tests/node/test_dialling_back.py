"""A node dials back who asks for it, where the question came from, and nowhere else."""

import asyncio
import socket

import pytest

from node.dialling_back import BY_ALL, BY_PEER, DiallingBack
from protocol.address import Address, Endpoint
from protocol.dialling_back import METHOD, Answer, Outcome, Question
from protocol.errors import PeerMisbehaved
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.memory import MemoryNetwork
from tests.announcing import peer_of
from tests.gossiping import identity_of
from tests.protocol.transport.peers import connected, listening, new_transport


class NeverDials:
    """A transport that must not be used; it says who tried."""

    def __init__(self):
        self.dialled = []

    async def dial(self, address, *, timeout_s):
        self.dialled.append(address)
        raise AssertionError(f"dialled {address}")


def declining(own=(), transport=None, **options):
    return DiallingBack(transport or NeverDials(), lambda: own, now_s=lambda: 0.0, **options)


async def ask(dialling, n, seen, port=31400):
    data = await dialling.handle(peer_of(n), seen, Question(port).encode())
    return Answer.decode(data, sender="")


async def reached_over_sockets(port_of):
    """What a real node says of a real asker that names `port_of(its address)`."""
    asked, asker = new_transport(), new_transport()
    dialling = DiallingBack(asked, lambda: (Address("127.0.0.1", 1, asked.peer_id),), dial_s=2.0)
    service = Service(seen_calls={METHOD: dialling.handle})
    async with (
        listening(Service(), asker) as address,
        connected(service, caller=asker, listener=asked) as connection,
    ):
        question = Question(port_of(address)).encode()
        return Answer.decode(await connection.call(METHOD, question, timeout_s=5.0), sender="")


async def test_whoever_listens_where_it_says_is_reached_by_a_fresh_connection():
    answer = await reached_over_sockets(lambda address: address.port)

    assert answer.outcome is Outcome.REACHED
    assert answer.took_us > 0
    assert answer.seen is not None
    assert answer.seen.host == "127.0.0.1"


async def test_where_nobody_listens_the_connection_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    answer = await reached_over_sockets(lambda address: port)

    assert answer.outcome is Outcome.REFUSED
    assert str(port) in answer.reason


async def test_where_another_peer_listens_it_is_named():
    async with listening(Service()) as other:
        answer = await reached_over_sockets(lambda address: other.port)

    assert answer.outcome is Outcome.WRONG_PEER
    assert other.peer_id in answer.reason


async def test_who_takes_the_connection_and_says_nothing_is_timed_out():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

        answer = await reached_over_sockets(lambda address: port)

    assert answer.outcome is Outcome.TIMED_OUT


async def test_port_zero_asks_only_how_the_asker_is_seen():
    answer = await ask(declining(), 1, Endpoint("203.0.113.5", 40123), port=0)

    assert answer == Answer(outcome=Outcome.NOT_ASKED, seen=Endpoint("203.0.113.5", 40123))


async def test_who_comes_through_a_socket_of_this_machine_is_not_dialled():
    answer = await ask(declining(), 1, None)

    assert answer.outcome is Outcome.DECLINED
    assert "no address" in answer.reason


async def test_addresses_of_this_machine_are_dialled_only_where_the_node_listens_on_nothing_else():
    public = (Address("203.0.113.9", 31400, peer_of(9)),)

    for own in ("127.0.0.1", "::1"):
        answer = await ask(declining(public), 1, Endpoint(own, 40123))

        assert answer.outcome is Outcome.DECLINED
        assert "relay" in answer.reason


async def test_the_address_dialled_is_the_one_the_question_came_from():
    network = MemoryNetwork()
    asker = network.transport(identity_of(1), OPEN_SWARM_ID)
    elsewhere = await asker.listen("198.51.100.1", 0, Service())
    dialling = DiallingBack(network.transport(identity_of(2), OPEN_SWARM_ID), lambda: ())
    port = elsewhere.addresses[0].port

    from_there = await ask(dialling, 1, Endpoint("198.51.100.1", 40123), port)
    from_here = await ask(dialling, 1, Endpoint("203.0.113.5", 40123), port)

    assert from_there.outcome is Outcome.REACHED
    assert from_here.outcome is Outcome.REFUSED


async def test_one_peer_cannot_have_us_dial_again_and_again():
    network = MemoryNetwork()
    transport = network.transport(identity_of(9), OPEN_SWARM_ID)
    dialling = declining(transport=transport)
    seen = Endpoint("203.0.113.5", 40123)

    outcomes = [(await ask(dialling, 1, seen)).outcome for _ in range(20)]

    assert outcomes.count(Outcome.REFUSED) == BY_PEER.burst
    assert outcomes[-1] is Outcome.DECLINED
    assert (await ask(dialling, 2, seen)).outcome is Outcome.REFUSED


async def test_many_peers_together_cannot_either():
    network = MemoryNetwork()
    transport = network.transport(identity_of(9), OPEN_SWARM_ID)
    dialling = declining(transport=transport)

    outcomes = [
        (await ask(dialling, n, Endpoint(f"203.0.{n}.5", 40123))).outcome for n in range(1, 200)
    ]

    assert outcomes.count(Outcome.REFUSED) == BY_ALL.burst


async def test_no_more_than_a_few_are_dialled_at_once():
    started, let_go = [], asyncio.Event()

    class Slow(NeverDials):
        async def dial(self, address, *, timeout_s):
            started.append(address)
            await let_go.wait()
            raise PeerMisbehaved("", "late")

    dialling = declining(transport=Slow())
    asking = [
        asyncio.create_task(ask(dialling, n, Endpoint(f"203.0.{n}.5", 1))) for n in range(1, 13)
    ]
    await asyncio.sleep(0.01)
    let_go.set()
    answers = await asyncio.gather(*asking)

    assert len(started) == 8
    assert [answer.outcome for answer in answers].count(Outcome.DECLINED) == 4


async def test_nonsense_is_refused():
    with pytest.raises(PeerMisbehaved):
        await declining().handle(peer_of(1), Endpoint("203.0.113.5", 1), b"\xff")
