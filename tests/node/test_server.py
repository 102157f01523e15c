"""Whatever a stranger sends a node over real sockets, it gets a typed error and the node lives."""

import secrets
import time
from dataclasses import replace

import pytest

from ledger.reader import LedgerReader
from ledger.receipts import open_receipt
from node.shares import Holding
from protocol.asking import Extensions, PrefixNames, Sampling
from protocol.codec import data_bytes, to_client_message, to_hop_bytes
from protocol.errors import (
    BadGrammar,
    BadSchema,
    ContextExceeded,
    ManyhandsError,
    PeerBusy,
    PeerMisbehaved,
    PeerRefused,
    PeerUnreachable,
    SwarmIncomplete,
    UsageError,
    VersionMismatch,
)
from protocol.frames import Ack, Frame, Gone, RowGroup
from protocol.grammar import Grammar
from protocol.load import METHOD, Load
from protocol.messages import (
    Failure,
    Keep,
    Raise,
    Reserve,
    Reserved,
    Resume,
    SessionId,
    Span,
)
from protocol.pb import hop_pb2
from protocol.profile import Execution
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import decode_error
from protocol.transport.grpc import GrpcTransport
from scheduler import Client, Token
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm, whole


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
async def node(model, tmp_path):
    async with swarm(
        model, tmp_path, lambda identity: GrpcTransport(identity, OPEN_SWARM_ID), (0, 6)
    ) as built:
        yield built


def reserve(node: Swarm, **what: object) -> Reserve:
    request = Reserve(
        session=SessionId(secrets.token_bytes(16)),
        epoch=0,
        manifest=node.manifest.digest,
        span=Span(0, 6),
        n_blocks=6,
        capacity=64,
        max_tokens=32,
        budget_ms=10_000,
        client_nonce=secrets.token_bytes(16),
        salt_commit=bytes(32),
    )
    return replace(request, **what)  # type: ignore[arg-type]


async def answer_to(node: Swarm, client: Client, message: bytes) -> object:
    """What the node says first on a control stream that begins with `message`."""
    connection = await client.transport.dial(node.nodes[0].address)
    try:
        stream = await connection.open("control")
        stream.send(message)
        return to_client_message(await stream.receive())
    finally:
        await connection.aclose()


async def serves(node: Swarm, client: Client) -> bool:
    result = await whole(client.generate(node.request([1, 2, 3], max_tokens=4, ignore_eos=True)))
    return len(result.token_ids) == 4


@pytest.mark.parametrize("junk", [b"", b"\x00", b"junk" * 100, secrets.token_bytes(4096)])
async def test_junk_on_a_control_stream_ends_it_typed(node, junk):
    async with node.client() as client:
        with pytest.raises(ManyhandsError):
            await answer_to(node, client, junk)

        assert await serves(node, client)


async def test_a_control_stream_cannot_begin_in_the_middle(node):
    async with node.client() as client:
        said = await answer_to(node, client, to_hop_bytes(Raise(epoch=3)))

        assert isinstance(said, Failure)
        assert isinstance(decode_error(said.error, ""), PeerMisbehaved)
        assert await serves(node, client)


async def test_a_client_may_require_an_execution_profile_and_its_receipt_names_it(node, tmp_path):
    async with node.client() as client:
        request = node.request([1, 2, 3], max_tokens=4, profile="float32/none/float32")
        await whole(client.generate(request))

        other = replace(request, profile="bfloat16/none/bfloat16", wait_s=0.1)
        with pytest.raises(SwarmIncomplete) as caught:
            await whole(client.generate(other))
        said = await answer_to(
            node, client, to_hop_bytes(reserve(node, profile="bfloat16/none/bfloat16"))
        )

    assert "asked for bfloat16/none/bfloat16, others run float32/none/float32" in caught.value.hint
    assert isinstance(said, Failure)
    assert "float32/none/float32, not bfloat16/none/bfloat16" in str(decode_error(said.error, ""))
    with LedgerReader.read(tmp_path / "client") as books:
        [entry] = books.entries()
        tab = open_receipt(books.receipt(entry.receipt_id), OPEN_SWARM_ID)
    execution = Execution.parse(tab.offer.exec_profile)
    assert (str(execution.profile), execution.engine) == ("float32/none/float32", "test")


async def test_somebody_elses_session_cannot_be_resumed(node):
    async with node.client() as client:
        resume = Resume(session=SessionId(bytes(16)), epoch=0, have=0)

        said = await answer_to(node, client, to_hop_bytes(resume))

        assert isinstance(said, Failure)
        assert isinstance(decode_error(said.error, ""), PeerRefused)


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ({"manifest": b"x" * 32}, VersionMismatch),
        ({"n_blocks": 12}, PeerRefused),
        ({"profile": "bfloat16/none/bfloat16"}, PeerRefused),
        ({"capacity": 100_000}, ContextExceeded),
        ({"extensions": Extensions(pooling="mean"), "max_tokens": 2}, UsageError),
        ({"extensions": Extensions(pooling="mean", prompt_logprobs=1)}, UsageError),
        ({"extensions": Extensions(drafter="any")}, UsageError),
        ({"extensions": Extensions(grammar="root ::= x")}, BadGrammar),
        ({"extensions": Extensions(grammar="json_schema:{")}, BadSchema),
        ({"extensions": Extensions(grammar="regex:[a-")}, BadGrammar),
        ({"extensions": Extensions(logprobs=1), "client_ends": True}, UsageError),
        ({"sampling": Sampling(top_p=7.0)}, UsageError),
        ({"extensions": Extensions(adapter="a@0123456789ab")}, PeerRefused),
    ],
)
async def test_a_request_that_does_not_fit_is_refused_with_its_reason(node, what, kind):
    async with node.client() as client:
        said = await answer_to(node, client, to_hop_bytes(reserve(node, **what)))

        assert isinstance(said, Failure)
        assert type(decode_error(said.error, "")) is kind
        assert node.nodes[0].node.sessions.reserved_bytes == 0


async def test_a_schema_made_to_overflow_a_stack_is_compiled_and_the_node_lives(node):
    links = {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(1300)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**links, "d1300": {}}}
    asked = Extensions(grammar=str(Grammar.json_schema(schema)))
    async with node.client() as client:
        said = await answer_to(node, client, to_hop_bytes(reserve(node, extensions=asked)))

        assert isinstance(said, Reserved)
        assert await serves(node, client)


@pytest.mark.parametrize(
    "names",
    [
        hop_pb2.PrefixNames(positions=[64, 32], digests=bytes(32)),
        hop_pb2.PrefixNames(positions=[32], digests=bytes(17)),
        hop_pb2.PrefixNames(positions=[65], digests=bytes(16)),
        hop_pb2.PrefixNames(positions=range(1, 66), digests=bytes(16 * 65)),
    ],
)
async def test_prefixes_that_cannot_be_are_misbehaviour(node, names):
    message = hop_pb2.ToHop.FromString(to_hop_bytes(reserve(node)))
    message.reserve.prefixes.CopyFrom(names)
    async with node.client() as client:
        with pytest.raises(PeerMisbehaved):
            await answer_to(node, client, message.SerializeToString())

        assert await serves(node, client)


async def test_names_beyond_the_room_are_misbehaviour_and_leave_nothing(node):
    local = node.nodes[0]
    async with node.client() as client:
        connection = await client.transport.dial(local.address)
        stream = await connection.open("control")
        stream.send(to_hop_bytes(reserve(node)))
        assert isinstance(to_client_message(await stream.receive()), Reserved)
        stream.send(to_hop_bytes(Keep(prefixes=PrefixNames(positions=(65,), digests=bytes(16)))))
        said = to_client_message(await stream.receive())
        await connection.aclose()

        assert isinstance(said, Failure)
        assert isinstance(decode_error(said.error, ""), PeerMisbehaved)
        assert local.node.sessions.prefixes.n_retained == 0
        assert await serves(node, client)


async def test_a_node_without_room_says_how_busy_it_is(node):
    sessions = node.nodes[0].node.sessions
    async with node.client() as client:
        sessions.reserved_bytes += sessions.served.budget_bytes
        said = await answer_to(node, client, to_hop_bytes(reserve(node)))
        sessions.reserved_bytes -= sessions.served.budget_bytes

        assert isinstance(said, Failure)
        error = decode_error(said.error, "")
        assert isinstance(error, PeerBusy)
        assert error.queue_depth == 0
        assert await serves(node, client)


async def test_an_answer_that_has_begun_gets_the_room_that_is_kept_for_such(node):
    sessions = node.nodes[0].node.sessions
    async with node.client() as client:
        connection = await client.transport.dial(node.nodes[0].address)
        stream = await connection.open("control")
        stream.send(to_hop_bytes(reserve(node)))
        assert isinstance(to_client_message(await stream.receive()), Reserved)
        taken = sessions.open_bytes
        sessions.reserved_bytes += taken
        refused = await answer_to(node, client, to_hop_bytes(reserve(node)))
        begun = await answer_to(node, client, to_hop_bytes(reserve(node, has_begun=True)))
        sessions.reserved_bytes -= taken
        await connection.aclose()

    assert taken > 0
    assert isinstance(refused, Failure)
    assert isinstance(decode_error(refused.error, ""), PeerBusy)
    assert isinstance(begun, Reserved)


async def test_a_reservation_nobody_commits_is_given_up(node):
    async with node.client() as client:
        said = await answer_to(node, client, to_hop_bytes(reserve(node)))
        assert isinstance(said, Reserved)

        assert await serves(node, client)  # meanwhile the stream's end freed the room
        assert node.nodes[0].node.sessions.reserved_bytes == 0


async def test_rows_of_an_unknown_session_are_answered_gone(node):
    async with node.client() as client:
        connection = await client.transport.dial(node.nodes[0].address)
        stream = await connection.open("data")
        group = RowGroup(SessionId(bytes(16)), 0, 0, 0, 0, 1)
        stream.send(data_bytes(Frame((group,), 4, b"rows")))

        from protocol.codec import data_message

        assert data_message(await stream.receive()) == Gone(SessionId(bytes(16)))
        await connection.aclose()


@pytest.mark.parametrize(
    "junk", [b"x", b"\xff" * 64, data_bytes(Ack(SessionId(bytes(16)), 0, 0)), b"\x00" * 1000]
)
async def test_junk_on_a_data_stream_ends_that_stream_only(node, junk):
    async with node.client() as client:
        connection = await client.transport.dial(node.nodes[0].address)
        stream = await connection.open("data")
        stream.send(junk)

        with pytest.raises((PeerMisbehaved, PeerUnreachable)):
            await stream.receive()
        await connection.aclose()
        assert await serves(node, client)


async def test_calls_with_junk_are_typed_errors(node):
    async with node.client() as client:
        connection = await client.transport.dial(node.nodes[0].address)
        for method in ("gossip", "file"):
            with pytest.raises(ManyhandsError):
                await connection.call(method, b"junk", timeout_s=2)
        await connection.aclose()
        assert await serves(node, client)


async def test_a_node_whose_queue_outlasts_the_request_says_so_at_once(node):
    load = node.nodes[0].node.batcher.load
    load.backlog_s, load.waiting = 60.0, 7
    async with node.client() as client:
        hurried = await answer_to(node, client, to_hop_bytes(reserve(node, budget_ms=30_000)))
        patient = await answer_to(node, client, to_hop_bytes(reserve(node, budget_ms=90_000)))

    assert isinstance(hurried, Failure)
    refused = decode_error(hurried.error, "")
    assert isinstance(refused, PeerBusy)
    assert refused.queue_depth == 7
    assert isinstance(patient, Reserved)


async def test_who_is_sent_away_for_a_line_waits_for_room_like_others(node):
    sessions = node.nodes[0].node.sessions
    half = sessions.served.budget_bytes // 2
    held, now_s = [Holding("greedy", half, is_committed=True)], time.monotonic()
    sessions.shares.check("greedy", half, held, now_s)
    node.nodes[0].node.batcher.load.backlog_s = 60.0
    async with node.client() as client:
        said = await answer_to(node, client, to_hop_bytes(reserve(node, budget_ms=30_000)))

    assert isinstance(said, Failure)
    with pytest.raises(PeerBusy, match="others wait for room"):
        sessions.shares.check("greedy", half, held, now_s)


async def test_a_node_tells_whoever_asks_how_busy_it_is(node):
    async with node.client() as client:
        generation = client.generate(node.request(range(8), max_tokens=40, ignore_eos=True))
        async with generation:
            async for event in generation:
                if isinstance(event, Token):
                    break
            connection = await client.transport.dial(node.nodes[0].address)
            during = Load.decode(await connection.call(METHOD, b"", timeout_s=10.0), sender="node")
        after = Load.decode(await connection.call(METHOD, b"", timeout_s=10.0), sender="node")
        await connection.aclose()

    assert (during.n_sessions, after.n_sessions) == (1, 0)
    assert during.kv_free_bytes < after.kv_free_bytes
    assert after.ticket == during.ticket + 1
    assert after.is_open
