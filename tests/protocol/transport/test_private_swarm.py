"""A gate before every call and stream, on real sockets: who is heard, and what strangers learn."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from protocol.address import Address
from protocol.clock import wall_ms
from protocol.errors import (
    ManyhandsError,
    MembershipEnded,
    NotAMember,
    PeerBusy,
    PeerMisbehaved,
    PeerRefused,
    VersionMismatch,
)
from protocol.identity import PeerId
from protocol.membership.certificates import Verdict
from protocol.membership.exchange import METHOD as SWARM
from protocol.membership.exchange import answer, exchange
from protocol.membership.gate import Membership
from protocol.membership.policy import GuestLimits
from protocol.membership.roles import Role, Roles
from protocol.signing import OPEN_SWARM_ID, Envelope
from protocol.tls import anchor_of_peer, issue_client_leaf, tls_name
from protocol.transport import Service, Stream, Transport
from protocol.transport.admission import REFUSAL_S
from protocol.transport.grpc import GrpcTransport
from protocol.transport.memory import MemoryNetwork
from tests.announcing import peer_of
from tests.membership import (
    FOUNDER,
    HOUR_MS,
    USES,
    WORKS,
    certify,
    found,
    framed,
    identity_of,
    member,
    open_to,
    rule,
)

SERVER, CALLER = 1, 2
FOUNDING = found()
HEARD: list[PeerId] = []


async def hear(caller: PeerId, request: bytes) -> bytes:
    HEARD.append(caller)
    return request


async def echo(stream: Stream) -> None:
    HEARD.append(stream.peer_id)
    while True:
        stream.send(await stream.receive())


async def refuse(caller: PeerId, request: bytes) -> bytes:
    raise PeerBusy("", "a reason that strangers do not hear")


def service(membership: Membership) -> Service:
    async def swarm(caller: PeerId, request: bytes) -> bytes:
        return answer(membership, request, sender=caller)

    return Service(
        open_calls={"redeem": refuse},
        calls={"ping": hear, "handover": hear, SWARM: swarm},
        streams={"control": echo, "data": echo},
    )


Dial = Callable[..., Awaitable[tuple[Transport, Membership | None]]]


class Net:
    """Peers of one kind of transport."""

    def __init__(self, memory: MemoryNetwork | None) -> None:
        self._memory = memory

    def transport(
        self, n: int, gate: Membership | None, *, swarm_id: bytes | None = None, version: int = 1
    ) -> Transport:
        swarm = swarm_id or (gate.swarm_id if gate else OPEN_SWARM_ID)
        if self._memory is not None:
            return self._memory.transport(identity_of(n), swarm, gate=gate, version=version)
        return GrpcTransport(identity_of(n), swarm, gate=gate, version=version)

    @asynccontextmanager
    async def serving(self, gate: Membership) -> AsyncIterator[Address]:
        listener = await self.transport(SERVER, gate).listen("127.0.0.1", 0, service(gate))
        HEARD.clear()
        try:
            yield listener.addresses[0]
        finally:
            await listener.aclose()


@pytest.fixture(params=["sockets", "memory"])
def net(request: pytest.FixtureRequest) -> Net:
    return Net(MemoryNetwork() if request.param == "memory" else None)


async def test_members_talk(net):
    async with net.serving(member(FOUNDING, SERVER)) as address:
        connection = await net.transport(CALLER, member(FOUNDING, CALLER, USES)).dial(address)

        assert await connection.call("ping", b"x", timeout_s=5) == b"x"
        stream = await connection.open("control")
        stream.send(b"y")
        assert await stream.receive() == b"y"
        assert [peer_of(CALLER)] * 2 == HEARD
        await connection.aclose()


def damaged(credential: bytes) -> bytes:
    return credential[:-20] + bytes([credential[-20] ^ 1]) + credential[-19:]


def strangers(now_ms: int) -> dict[str, tuple[int, Membership | None, dict[str, object]]]:
    """Everybody who is not of the swarm, by how they come."""
    ours, other = member(FOUNDING, CALLER), member(found(name="other"), CALLER)
    state = ours.state

    def showing(credential: bytes) -> Membership:
        return Membership(ours.state, credential)

    return {
        "of no swarm": (CALLER, None, {}),
        "who knows the swarm's id": (CALLER, None, {"swarm_id": state.swarm_id}),
        "of another swarm": (CALLER, other, {}),
        "with a certificate of another swarm": (CALLER, showing(other.credential), {}),
        "with an expired certificate": (
            CALLER,
            showing(certify(state, CALLER, now_ms=now_ms - HOUR_MS - 1)),
            {},
        ),
        "with a certificate of next week": (
            CALLER,
            showing(certify(state, CALLER, now_ms=now_ms + 168 * HOUR_MS)),
            {},
        ),
        "with somebody else's certificate": (3, showing(ours.credential), {}),
        "with one it made itself": (3, showing(certify(state, 3, by=3)), {}),
        "with a damaged one": (CALLER, showing(damaged(ours.credential)), {}),
        "of another version": (CALLER, None, {"version": 7}),
        "of another version, who knows the id": (
            CALLER,
            None,
            {"version": 7, "swarm_id": state.swarm_id},
        ),
    }


@pytest.mark.parametrize("how", strangers(wall_ms()))
async def test_a_stranger_hears_one_thing_and_nobody_hears_it(net, how):
    n, gate, more = strangers(wall_ms())[how]
    async with net.serving(member(FOUNDING, SERVER)) as address:
        with pytest.raises(NotAMember) as refused:
            await net.transport(n, gate, **more).dial(address)

        assert HEARD == []
        assert str(refused.value) == f"{peer_of(SERVER)}: it does not talk to strangers"


async def test_a_swarm_that_denies_one_says_no_more_to_it_than_to_any_stranger(net):
    serving = member(FOUNDING, SERVER)
    serving.merge(framed(rule(serving.state, CALLER, Verdict.DENIED)))
    async with net.serving(serving) as address:
        with pytest.raises(NotAMember, match="strangers"):
            await net.transport(CALLER, member(FOUNDING, CALLER)).dial(address)


async def test_who_answers_must_be_a_member_too(net):
    """An address that leads to a peer of the swarm's past, or to a spy."""
    serving = member(FOUNDING, SERVER)
    calling = member(FOUNDING, CALLER)
    calling.merge(framed(rule(calling.state, SERVER, Verdict.REVOKED)))
    async with net.serving(serving) as address:
        with pytest.raises(MembershipEnded, match="revoked"):
            await net.transport(CALLER, calling).dial(address)


async def test_prompts_go_to_those_alone_who_may_provide(net):
    async with net.serving(member(FOUNDING, SERVER, USES)) as address:
        connection = await net.transport(CALLER, member(FOUNDING, CALLER)).dial(address)

        with pytest.raises(PeerRefused, match="not answer control"):
            await connection.open("control")
        await connection.aclose()


@pytest.mark.parametrize(
    ("roles", "allowed", "denied"),
    [
        (frozenset({Role.OBSERVE}), ("ping",), ("control", "data", "handover")),
        (USES, ("ping", "control", "data"), ("handover",)),
        (frozenset({Role.PROVIDE}), ("ping", "data", "handover"), ("control",)),
    ],
)
async def test_a_role_opens_its_calls_and_no_others(
    net: Net, roles: Roles, allowed: tuple[str, ...], denied: tuple[str, ...]
) -> None:
    streams = ("control", "data")
    async with net.serving(member(FOUNDING, SERVER)) as address:
        connection = await net.transport(CALLER, member(FOUNDING, CALLER, roles)).dial(address)

        async def ask(method: str) -> None:
            if method in streams:
                await (await connection.open(method)).aclose()
            else:
                await connection.call(method, b"", timeout_s=5)

        for method in allowed:
            await ask(method)
        for method in denied:
            with pytest.raises(PeerRefused, match=f"not ask for {method}"):
                await ask(method)
        await connection.aclose()


async def test_a_member_hears_why_a_version_or_a_method_does_not_fit(net):
    async with net.serving(member(FOUNDING, SERVER)) as address:
        transport = net.transport(CALLER, member(FOUNDING, CALLER), version=7)
        with pytest.raises(VersionMismatch, match="the caller speaks protocol 7"):
            await transport.dial(address)
        transport = net.transport(CALLER, member(FOUNDING, CALLER, USES))
        connection = await transport.dial(address)
        with pytest.raises(PeerRefused, match="not ask for no-such-thing"):
            await connection.call("no-such-thing", b"", timeout_s=5)
        await connection.aclose()


async def test_what_goes_wrong_behind_an_open_call_looks_like_any_refusal(net):
    serving = member(FOUNDING, SERVER)
    async with net.serving(serving) as address:
        joining = net.transport(CALLER, Membership(serving.state))
        with pytest.raises(NotAMember, match="strangers"):
            await joining.ask_openly(address, "redeem", b"?")


async def test_revocation_ends_open_streams_with_the_reason(net):
    serving, calling = member(FOUNDING, SERVER), member(FOUNDING, CALLER)
    async with net.serving(serving) as address:
        connection = await net.transport(CALLER, calling).dial(address)
        stream = await connection.open("control")

        serving.merge(framed(rule(serving.state, CALLER, Verdict.REVOKED)))

        async with asyncio.timeout(5):
            with pytest.raises(MembershipEnded, match="revoked"):
                await stream.receive()
            with pytest.raises(NotAMember):
                await connection.call("ping", b"", timeout_s=5)
        await connection.aclose()


async def test_a_caller_leaves_a_peer_that_was_revoked():
    """On sockets, where a connection is more than its streams."""
    serving, calling = member(FOUNDING, SERVER), member(FOUNDING, CALLER)
    async with Net(None).serving(serving) as address:
        connection = await Net(None).transport(CALLER, calling).dial(address)
        stream = await connection.open("control")

        calling.merge(framed(rule(calling.state, SERVER, Verdict.REVOKED)))

        async with asyncio.timeout(5):
            with pytest.raises(MembershipEnded, match="we left it"):
                await stream.receive()
        await connection.aclose()


async def test_a_look_around_disturbs_no_dial_that_is_under_way():
    serving, calling = member(FOUNDING, SERVER), member(FOUNDING, CALLER)
    async with Net(None).serving(serving) as address:
        transport = Net(None).transport(CALLER, calling)
        assert isinstance(transport, GrpcTransport)
        connection = transport._connect(address)

        connection.sweep()  # nothing is known of the other side yet

        await connection.hello(timeout_s=5)
        assert await connection.call("ping", b"x", timeout_s=5) == b"x"
        calling.merge(framed(rule(calling.state, SERVER, Verdict.REVOKED)))
        connection.sweep()
        with pytest.raises(MembershipEnded, match="we left it"):
            await connection.call("ping", b"x", timeout_s=5)
        await connection.aclose()


async def test_an_expired_membership_ends_what_it_opened(net):
    now_ms = [wall_ms()]
    serving = member(FOUNDING, SERVER, now_ms=lambda: now_ms[0])
    serving.credential = certify(serving.state, SERVER, lasts_ms=10 * HOUR_MS)
    async with net.serving(serving) as address:
        connection = await net.transport(CALLER, member(FOUNDING, CALLER)).dial(address)
        stream = await connection.open("control")

        now_ms[0] += 2 * HOUR_MS
        serving.look_again()

        async with asyncio.timeout(5):
            with pytest.raises(MembershipEnded, match="expired"):
                await stream.receive()
        await connection.aclose()


async def test_two_members_come_to_know_the_same(net):
    serving, calling = member(FOUNDING, SERVER), member(FOUNDING, CALLER)
    serving.merge(framed(rule(serving.state, 8, Verdict.REVOKED)))
    calling.merge(framed(rule(calling.state, 9, Verdict.DENIED)))
    async with net.serving(serving) as address:
        connection = await net.transport(CALLER, calling).dial(address)

        assert await exchange(connection, calling, timeout_s=5)
        assert not await exchange(connection, calling, timeout_s=5)

        assert serving.state.digest == calling.state.digest
        assert len(serving.state.rulings) == 2
        await connection.aclose()


async def test_a_member_that_makes_up_rulings_is_caught(net):
    serving, calling = member(FOUNDING, SERVER), member(FOUNDING, CALLER)
    forged = rule(calling.state, 9, Verdict.DENIED)
    forged = Envelope(forged.type, forged.payload, ((forged.signers[0], bytes(64)),))
    async with net.serving(serving) as address:
        connection = await net.transport(CALLER, calling).dial(address)
        with pytest.raises(PeerMisbehaved, match="does not hold"):
            await connection.call(SWARM, bytes(32) + framed(forged), timeout_s=5)
        assert not serving.state.rulings
        await connection.aclose()


async def test_an_open_swarm_lets_guests_in_as_far_as_its_policy_says(net):
    founding = open_to(USES, GuestLimits(newcomers_per_min=60, streams=1))
    async with net.serving(
        Membership(member(founding, FOUNDER).state, certify(member(founding, SERVER).state, SERVER))
    ) as address:
        guest = Membership(member(founding, CALLER).state)
        connection = await net.transport(CALLER, guest).dial(address)
        stream = await connection.open("control")

        with pytest.raises(PeerBusy, match="a guest may have 1"):
            await connection.open("control")
        with pytest.raises(PeerRefused, match="not ask for handover"):
            await connection.call("handover", b"", timeout_s=5)
        await stream.aclose()
        await connection.aclose()


def test_newcomers_come_a_few_a_minute_and_are_no_newcomers_then():
    founding = open_to(USES, GuestLimits(newcomers_per_min=2))
    now_s = [0.0]
    gate = Membership(member(founding, SERVER).state, now_s=lambda: now_s[0])

    gate.admit(peer_of(1), b"", "ping", n_streams=0)
    gate.admit(peer_of(2), b"", "ping", n_streams=0)
    with pytest.raises(PeerBusy, match="newcomers"):
        gate.admit(peer_of(3), b"", "ping", n_streams=0)
    gate.admit(peer_of(1), b"", "ping", n_streams=0)
    now_s[0] = 31.0
    gate.admit(peer_of(3), b"", "ping", n_streams=0)
    shown = certify(gate.state, 4, WORKS)
    gate.admit(peer_of(4), shown, "ping", n_streams=0)  # a member is no newcomer


async def test_strangers_learn_nothing_from_the_bytes_or_the_time_of_a_refusal():
    """What comes back on the wire is the same to the byte, and not before its time."""
    serving = member(FOUNDING, SERVER)
    credential = member(FOUNDING, CALLER).credential
    swarm = ("manyhands-swarm", serving.swarm_id.hex())
    version = ("manyhands-version", "1")
    shown = ("manyhands-member-bin", damaged(credential))
    cases = {
        ("ping", ()),
        ("ping", (version, ("manyhands-swarm", "00" * 32))),
        ("ping", (version, swarm)),
        ("ping", (version, swarm, shown)),
        ("redeem", (version, swarm)),
        ("control", (version, swarm, shown)),
        ("no-such-thing", (version, swarm)),
    }
    seen = set()
    async with Net(None).serving(serving) as address:
        for method, metadata in sorted(cases):
            began_s = time.monotonic()
            seen.add(await _raw_refusal(address, method, metadata))
            assert time.monotonic() - began_s >= REFUSAL_S * 0.9

    assert len(seen) == 1
    assert HEARD == []


async def _raw_refusal(address: Address, method: str, metadata: object) -> tuple[object, ...]:
    leaf = issue_client_leaf(identity_of(77))
    credentials = grpc.ssl_channel_credentials(
        anchor_of_peer(address.peer_id), leaf.key_pem, leaf.certificate_pem
    )
    options = (("grpc.ssl_target_name_override", tls_name(address.peer_id)),)
    async with grpc.aio.secure_channel(address.target, credentials, options=options) as channel:
        call = channel.unary_unary(f"/manyhands.v1.Node/{method}")(b"?", metadata=metadata)
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return (error.code(), error.details(), tuple(error.trailing_metadata() or ()))
    raise AssertionError("it was answered")


def test_errors_that_cross_the_wire_stay_what_they_are():
    assert issubclass(NotAMember, PeerRefused)
    assert issubclass(MembershipEnded, ManyhandsError)
