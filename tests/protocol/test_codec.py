"""Messages survive the wire; nothing else does. The bytes themselves are pinned."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.asking import Extensions, Funding, Handover, PrefixNames, Sampling
from protocol.codec import (
    data_bytes,
    data_message,
    ids_from_bytes,
    ids_to_bytes,
    to_client_bytes,
    to_client_message,
    to_hop_bytes,
    to_hop_message,
)
from protocol.errors import PeerMisbehaved
from protocol.frames import Ack, Ask, Frame, Gone, RowGroup
from protocol.messages import (
    MAX_REASON_CHARS,
    Account,
    Close,
    Closed,
    Commit,
    Committed,
    Failure,
    Keep,
    Leaving,
    LinkDown,
    Pay,
    Progress,
    Raise,
    Raised,
    Reserve,
    Reserved,
    Resume,
    SessionId,
    Span,
    TokenEvent,
    Unpaid,
)
from protocol.pb import hop_pb2

GOLDEN = Path(__file__).parent.parent / "golden" / "wire.json"
SESSION = SessionId(bytes(range(16)))
RESERVE = Reserve(
    session=SESSION,
    epoch=1,
    manifest=b"m" * 32,
    span=Span(2, 5),
    n_blocks=8,
    capacity=300,
    max_tokens=256,
    budget_ms=60_000,
    client_nonce=b"n" * 16,
    salt_commit=b"s" * 32,
    profile="float32/none",
    ignore_eos=True,
    sampling=Sampling(temperature=0.7, top_k=40, top_p=0.9, seed=2**63 + 5),
    stops=("\n", "é"),
    traceparent="t-1",
    extensions=Extensions(grammar="root ::= x"),
    prefixes=PrefixNames(positions=(64, 128), digests=bytes(range(32)), shared=True),
    handover=Handover(peer="12D3KooA", addresses=("/ip4/127.0.0.1/tcp/1/p2p/A",), note=b"note"),
    hears_leaving=True,
)
COMMIT = Commit(
    epoch=1,
    length=2,
    next_length=0,
    n=5,
    n_prompt=4,
    previous="12D3KooA",
    next="12D3KooB",
    next_addresses=("/ip4/127.0.0.1/tcp/1/p2p/12D3KooB",),
    route=b"route",
    salt=b"s" * 32,
    terms=b"terms",
    ids=ids_to_bytes([7, 8, 9]),
    history=ids_to_bytes([5, 6, 7, 8, 9]),
    digest=b"d" * 32,
)
DRAWN = {  # what came to these two later
    "to_hop.Reserve.draws": replace(
        RESERVE,
        sampling=Sampling(temperature=0.7, min_p=0.25, choice=3),
        extensions=Extensions(grammar="json_object", logprobs=3, logit_bias=b"\7\0\0\0\0\0\0?"),
        min_tokens=5,
        stop_token_ids=(2, 300_000),
    ),
    "to_hop.Reserve.funding": replace(
        RESERVE, funding=Funding(proof=b"proof", start=3, leaves=(b"one", b"two"))
    ),
    "to_client.TokenEvent.logprobs": TokenEvent(
        epoch=2,
        position=17,
        token_id=99,
        text="né",
        rows=1,
        logprob=-2.5,
        top_ids=(0, 99),
        top_logprobs=(-0.5, -2.5),
    ),
}
TO_HOP = [
    RESERVE,
    COMMIT,
    Raise(epoch=2),
    Pay(voucher=b"v"),
    Close(reason="done"),
    Resume(session=SESSION, epoch=1, have=17),
    Keep(prefixes=PrefixNames(positions=(17,), digests=b"d" * 16)),
]
TO_CLIENT = [
    Reserved(
        epoch=1,
        terms=b"t",
        offer=b"o",
        row_bytes=512,
        profile="float32/none",
        prefix_length=64,
        journal_from=3,
    ),
    Raised(epoch=2, length=17, journal_from=3),
    Committed(epoch=2),
    TokenEvent(epoch=2, position=17, token_id=99, text="né", rows=3, finish_reason="stop"),
    Progress(epoch=2, rows_in=17, rows_out=16, run_us=812),
    Account(statement=b"s", final=True),
    Unpaid(epoch=2),
    LinkDown(epoch=2, peer="12D3KooB", reason="refused"),
    Failure(epoch=2, error=b"{}"),
    Closed(receipt=b"r" * 32, index=4),
    Leaving(epoch=2, left_ms=30_000, row_bytes=9_000, up_bytes_per_s=10**7),
]
DATA = [
    Frame(
        (RowGroup(SESSION, 1, 0, 3, 17, 2), RowGroup(SESSION, 2, 1, 0, 0, 1)), 4, b"abcdefghijkl"
    ),
    Ack(SESSION, 1, 17, rewind=True),
    Ask(SESSION, 1),
    Gone(SESSION),
]
groups = st.builds(
    RowGroup,
    session=st.binary(min_size=16, max_size=16).map(SessionId),
    epoch=st.integers(0, 2**31),
    branch=st.integers(0, 2**31),
    step=st.integers(0, 2**31),
    start=st.integers(0, 1 << 20),
    rows=st.integers(1, 5),
)


@pytest.mark.parametrize("message", TO_HOP, ids=lambda message: type(message).__name__)
def test_what_a_client_says_arrives_as_it_was(message):
    assert to_hop_message(to_hop_bytes(message)) == message


def test_a_reason_to_close_of_any_length_is_no_message():
    sent = hop_pb2.ToHop(close=hop_pb2.Close(reason="x" * (1 + MAX_REASON_CHARS)))

    with pytest.raises(PeerMisbehaved, match="a reason too long"):
        to_hop_message(sent.SerializeToString())


@pytest.mark.parametrize("message", TO_CLIENT, ids=lambda message: type(message).__name__)
def test_what_a_hop_says_arrives_as_it_was(message):
    assert to_client_message(to_client_bytes(message)) == message


def test_what_a_draw_is_asked_and_tells_arrives_as_it_was():
    asked, funded, told = DRAWN.values()

    assert to_hop_message(to_hop_bytes(asked)) == asked
    assert to_hop_message(to_hop_bytes(funded)) == funded
    assert to_client_message(to_client_bytes(told)) == told


@pytest.mark.parametrize(
    "what",
    [
        {"logprob": 0.5},
        {"logprob": float("nan")},
        {"logprob": -1e6},
        {"top_ids": [1]},
        {"top_ids": [1, 2], "top_logprobs": [-1.0]},
        {"top_ids": range(21), "top_logprobs": [-1.0] * 21},
        {"top_ids": [1], "top_logprobs": [float("inf")]},
    ],
)
def test_log_probabilities_that_cannot_be_are_misbehaviour(what):
    wire = hop_pb2.TokenEvent(epoch=1, position=3, token_id=5, **what)
    message = hop_pb2.ToClient(token=wire).SerializeToString()

    with pytest.raises(PeerMisbehaved):
        to_client_message(message)


@pytest.mark.parametrize(
    "what",
    [
        {"extensions": hop_pb2.Extensions(logprobs=22)},
        {"extensions": hop_pb2.Extensions(logit_bias=bytes(7))},
        {"extensions": hop_pb2.Extensions(logit_bias=bytes(8 * 1025))},
        {"extensions": hop_pb2.Extensions(grammar="x" * 65_537)},
        {"min_tokens": 257},
        {"stop_token_ids": range(65)},
    ],
)
def test_draws_that_cannot_be_asked_for_are_misbehaviour(what):
    wire = hop_pb2.ToHop.FromString(to_hop_bytes(RESERVE))
    wire.reserve.MergeFrom(hop_pb2.Reserve(**what))

    with pytest.raises(PeerMisbehaved):
        to_hop_message(wire.SerializeToString())


@given(st.lists(groups, min_size=1, max_size=4), st.integers(1, 16), st.data())
def test_a_frame_arrives_with_every_row_in_its_place(row_groups, row_bytes, data):
    size = sum(group.rows for group in row_groups) * row_bytes
    body = data.draw(st.binary(min_size=size, max_size=size))

    arrived = data_message(data_bytes(Frame(tuple(row_groups), row_bytes, body)))

    assert isinstance(arrived, Frame)
    assert (arrived.groups, arrived.row_bytes) == (tuple(row_groups), row_bytes)
    assert bytes(arrived.body) == body


@pytest.mark.parametrize("message", DATA[1:], ids=lambda message: type(message).__name__)
def test_answers_and_questions_between_hops_arrive_as_they_were(message):
    assert data_message(data_bytes(message)) == message


@given(st.binary(max_size=200))
def test_random_bytes_are_a_typed_error_or_a_valid_message(junk):
    for decode in (data_message, to_hop_message, to_client_message):
        with contextlib.suppress(PeerMisbehaved):
            decode(junk)


@given(st.sampled_from([data_bytes(message) for message in DATA]), st.data())
def test_a_flipped_byte_is_a_typed_error_or_a_valid_message(wire, data):
    at = data.draw(st.integers(0, len(wire) - 1))
    flipped = wire[:at] + bytes([wire[at] ^ data.draw(st.integers(1, 255))]) + wire[at + 1 :]
    with contextlib.suppress(PeerMisbehaved):
        data_message(flipped)


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\xff\xff\xff\xff",
        b"\xff\xff\xff\x7f" + b"x" * 100,
        data_bytes(DATA[0])[:-1],  # a row cut short
        data_bytes(DATA[0]) + b"x",  # a row too many
        data_bytes(DATA[1]) + b"x",  # rows without a group
    ],
)
def test_lengths_that_do_not_fit_are_refused(wire):
    with pytest.raises(PeerMisbehaved):
        data_message(wire)


def test_tree_drafts_are_refused_until_they_are_negotiated():
    group = hop_pb2.RowGroup(session=SESSION, rows=1, parents=[0])
    header = hop_pb2.DataHeader(groups=[group], row_bytes=1).SerializeToString()

    with pytest.raises(PeerMisbehaved, match="negotiated"):
        data_message(len(header).to_bytes(4, "little") + header + b"x")


def test_an_unknown_control_message_is_refused():
    with pytest.raises(PeerMisbehaved):
        to_hop_message(b"\x9a\x06\x00")  # field 99, which is nobody's


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ({"positions": (128, 64), "digests": bytes(32)}, "ascending"),
        ({"positions": (64, 64), "digests": bytes(32)}, "ascending"),
        ({"positions": (0,), "digests": bytes(16)}, "ascending"),
        ({"positions": (64,), "digests": bytes(15)}, "do not match"),
        ({"positions": (64,), "digests": bytes(32)}, "do not match"),
        ({"positions": tuple(range(1, 66)), "digests": bytes(16 * 65)}, "more than 64"),
        ({"positions": (1 << 25,), "digests": bytes(16)}, "out of range"),
        ({"positions": (301,), "digests": bytes(16)}, "beyond the room"),
    ],
)
def test_prefixes_that_are_out_of_order_range_or_number_are_refused(what, complaint):
    wire = hop_pb2.ToHop.FromString(to_hop_bytes(RESERVE))
    wire.reserve.prefixes.CopyFrom(hop_pb2.PrefixNames(**what))

    with pytest.raises(PeerMisbehaved, match=complaint):
        to_hop_message(wire.SerializeToString())


def test_ids_travel_as_unsigned_little_endian_words():
    assert ids_to_bytes([1, 258, 2**32 - 1]) == bytes.fromhex("0100000002010000ffffffff")
    assert ids_from_bytes(ids_to_bytes([1, 258])) == [1, 258]


def test_the_bytes_on_the_wire_are_the_pinned_ones():
    """A difference is a protocol change: raise PROTOCOL_VERSION and say so in the changelog."""
    wire = {
        **{f"to_hop.{type(m).__name__}": to_hop_bytes(m).hex() for m in TO_HOP},
        **{f"to_client.{type(m).__name__}": to_client_bytes(m).hex() for m in TO_CLIENT},
        **{f"data.{type(m).__name__}": data_bytes(m).hex() for m in DATA},
        **{
            name: (to_hop_bytes(m) if isinstance(m, Reserve) else to_client_bytes(m)).hex()
            for name, m in DRAWN.items()
        },
    }
    assert wire == json.loads(GOLDEN.read_text())
