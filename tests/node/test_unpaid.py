"""A client that does not pay is told once, costs one window, and blames nobody."""

import asyncio
import secrets

import pytest

from ledger.meter import Rates
from protocol.chain_actions import Seat, Stretch
from protocol.codec import ids_to_bytes, to_client_message, to_hop_bytes
from protocol.messages import (
    Account,
    Close,
    Closed,
    Commit,
    Pay,
    Reserve,
    Reserved,
    SessionId,
    Span,
    TokenEvent,
    Unpaid,
)
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Stream
from protocol.transport.memory import MemoryNetwork
from scheduler import Client
from scheduler.client_tab import ClientTab
from scheduler.settlement import Settlement
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm

PROMPT = [1, 2, 3, 4]
WINDOW_TOKENS = 3  # 100,000 ncr, at 6 blocks x 5,000 ncr


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
async def priced(model, tmp_path):
    network = MemoryNetwork()
    async with swarm(
        model, tmp_path, lambda identity: network.transport(identity, OPEN_SWARM_ID)
    ) as built:
        await built.start((0, 6), rates=Rates(decode_tl=5_000_000_000))
        yield built


async def opened(
    priced: Swarm, client: Client, *, has_begun: bool = False
) -> tuple[Stream, ClientTab]:
    """A session by hand: a hop is reserved and committed, tokens are on their way."""
    node, session = priced.nodes[0], SessionId(secrets.token_bytes(16))
    settlement = Settlement(session, client.identity, OPEN_SWARM_ID, priced.nodes[0].books)
    reserve = Reserve(
        session=session,
        epoch=0,
        manifest=priced.manifest.digest,
        span=Span(0, 6),
        n_blocks=6,
        capacity=200,
        max_tokens=100,
        budget_ms=60_000,
        client_nonce=secrets.token_bytes(16),
        salt_commit=settlement.salt_commit,
        ignore_eos=True,
        has_begun=has_begun,
    )
    tab = settlement.open(node.address.peer_id, reserve)
    stream = await (await client.transport.dial(node.address)).open("control")
    stream.send(to_hop_bytes(reserve))
    reserved = to_client_message(await stream.receive())
    assert isinstance(reserved, Reserved)
    tab.proposed(reserved)
    peer = node.address.peer_id
    commit = Commit(
        epoch=0,
        length=0,
        next_length=0,
        n=len(PROMPT),
        n_prompt=len(PROMPT),
        previous=peer,
        next=peer,
        next_addresses=(),
        route=settlement.route(0, [Seat(peer, Span(0, 6))]),
        salt=settlement.salt,
        terms=tab.accept(),
        ids=ids_to_bytes(PROMPT),
        history=ids_to_bytes(PROMPT),
    )
    stream.send(to_hop_bytes(commit))
    return stream, tab


async def said(stream: Stream, *, for_s: float = 0.5) -> list[object]:
    """Everything the hop says until it falls silent for a while."""
    heard: list[object] = []
    try:
        while True:
            async with asyncio.timeout(for_s):
                message = to_client_message(await stream.receive())
            heard += [message] if not _is_progress(message) else []
            if isinstance(message, Closed):
                return heard
    except TimeoutError:
        return heard


def _is_progress(message: object) -> bool:
    return type(message).__name__ == "Progress"


async def until_unpaid(stream: Stream) -> list[object]:
    heard: list[object] = []
    while not (heard and isinstance(heard[-1], Unpaid)):
        heard.append(to_client_message(await stream.receive()))
    return heard


async def test_a_hop_stops_at_its_window_and_goes_on_when_it_is_paid(priced):
    async with priced.client() as client:
        stream, tab = await opened(priced, client)

        heard = await until_unpaid(stream) + await until_progress(stream, 1)
        tokens = [message for message in heard if isinstance(message, TokenEvent)]
        statements = [message for message in heard if isinstance(message, Account)]
        assert len(tokens) == WINDOW_TOKENS + 1, "the prompt's own draw, and the window"

        # All that was run is stated, so that the client can pay for all of it.
        tab.hear(statements[-1].statement)
        derived = [Stretch(0, len(PROMPT) + len(tokens) - 1, len(PROMPT))]
        voucher = tab.voucher(derived, now=True)
        assert voucher is not None
        stream.send(to_hop_bytes(Pay(voucher=voucher)))
        more = await until_unpaid(stream) + await until_progress(stream, 1)

        assert sum(isinstance(message, TokenEvent) for message in more) == WINDOW_TOKENS

        # The same voucher again changes nothing, and is not answered with another `unpaid`.
        stream.send(to_hop_bytes(Pay(voucher=voucher)))
        stream.send(to_hop_bytes(Pay(voucher=voucher)))
        silence = [type(message).__name__ for message in await until_progress(stream, 3)]
        assert "Unpaid" not in silence

        stream.send(to_hop_bytes(Close()))
        final = next(m for m in await said(stream) if isinstance(m, Account) and m.final)
        assert final.statement


async def until_progress(stream: Stream, count: int) -> list[object]:
    """What is said until `count` reports of progress came: a while, measured by the hop."""
    heard: list[object] = []
    while sum(map(_is_progress, heard)) < count:
        heard.append(to_client_message(await stream.receive()))
    return heard
