"""Strangers who owe: over real sockets, they hear how much, settle, and are served again."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ledger.debts import Passed
from ledger.meter import Rates
from ledger.tallies import Tallies
from ledger.tally import Kin, Tally
from node.credit import Limits
from node.owing import OwingBook
from protocol.clock import wall_ms
from protocol.errors import InDebt
from protocol.owing import Showing
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.transport.grpc import GrpcTransport
from scheduler import Client
from tests.checkpoints import write_checkpoint
from tests.gossiping import until
from tests.local_swarm import LocalNode, Swarm, add_byte_tokenizer, swarm, whole

N_BLOCKS, PROMPT = 6, [1, 2, 3]
NCR = 1000  # for a token-layer; so tests lend 100 token-layers on a tab
RATES = Rates(prefill_tl=NCR * 1_000_000, decode_tl=NCR * 1_000_000)
LIMITS = Limits(payment=100, disconnect=1000, newcomer=100)  # 5 tokens of an answer are 42


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
async def priced(model: Path, tmp_path: Path) -> AsyncIterator[Swarm]:
    async with swarm(
        model, tmp_path, lambda identity: GrpcTransport(identity, OPEN_SWARM_ID)
    ) as built:
        await built.start((0, N_BLOCKS), rates=RATES, limits=LIMITS)
        yield built


async def uses(priced: Swarm, client: Client, n_tokens: int = 5) -> int:
    """How many tokens it gets."""
    request = priced.request(PROMPT, max_tokens=n_tokens, ignore_eos=True)
    return len((await whole(client.generate(request))).token_ids)


def owed(node: LocalNode, client: Client) -> int:
    owing = node.node.standing.owing
    assert owing is not None
    return owing.debts.with_(client.identity.public_key).owes


async def test_32_a_debtor_hears_what_it_owes_and_is_served_again_once_its_creditor_says_so(priced):
    (node,) = priced.nodes
    async with priced.client() as client, priced.client("another") as other:
        assert [await uses(priced, client) for _ in range(3)] == [5, 5, 5]
        await until(lambda: owed(node, client) == 126 * NCR, timeout_s=5)

        with pytest.raises(InDebt, match="you owe 126000 ncr here") as caught:
            await uses(priced, client)
        assert caught.value.owed_ncr == 126 * NCR
        assert "manyhands ledger paid" in caught.value.hint
        assert await uses(priced, other) == 5

        said = Tally(
            payer=client.identity.public_key,
            payee=node.node.identity.public_key,
            served=126 * NCR,
            settled=126 * NCR,
            issued_ms=wall_ms(),
        )
        with Tallies.open(node.home, OPEN_SWARM_ID) as tallies:  # `manyhands ledger paid` does it
            tallies.keep(said.seal(OPEN_SWARM_ID, node.node.identity.key))
        await until(lambda: owed(node, client) == 0, timeout_s=5)
        assert await uses(priced, client) == 5


async def test_a_newcomer_is_cut_where_its_day_ends_and_a_restart_forgets_nothing_of_it(priced):
    (node,) = priced.nodes
    async with priced.client() as client:
        with pytest.raises(InDebt, match="newcomers a little each day: 100000 ncr"):
            await uses(priced, client, n_tokens=60)
        await until(lambda: owed(node, client) > 0, timeout_s=5)
        assert 100 * NCR < owed(node, client) <= 200 * NCR, "its day and a window"

        again = OwingBook(node.node.identity, OPEN_SWARM_ID, node.books, None)
        again.load()
        again.close()
        key = client.identity.public_key
        assert again.debts.with_(key).owes == again.today.used(key, wall_ms()) == owed(node, client)


async def test_what_is_shown_of_kin_counts_and_what_does_not_hold_is_refused(priced):
    (node,) = priced.nodes
    kin_key = SigningKey.generate()
    owing = node.node.standing.owing
    async with priced.client() as client:
        await uses(priced, client)
        await until(lambda: owed(node, client) == 42 * NCR, timeout_s=5)
        kin = Kin(node=kin_key.public_key, client=client.identity.public_key, issued_ms=0)
        signed = kin.seal(OPEN_SWARM_ID, kin_key, client.identity.key)
        client._owing.shows = Showing(kin=signed.encode())
        client._owing._met.clear()
        await uses(priced, client)

        await until(lambda: owed_by(owing, kin_key) == 84 * NCR, timeout_s=5)

        connection = await client._connections.to(node.address.peer_id, [str(node.address)])
        for junk in (b"", b"\x82\x01\x02", bytes(5000)):
            with pytest.raises(Exception, match="debts"):
                await connection.call("owing", junk, timeout_s=5)
        assert await uses(priced, client, 1) == 1


def owed_by(owing, key: SigningKey) -> int:
    return owing.debts.with_(key.public_key).owes


async def test_both_sign_a_tally_of_what_was_done_when_they_meet_again(priced, tmp_path):
    (node,) = priced.nodes
    async with priced.client() as client:
        us, them = client.identity.public_key, node.node.identity.public_key

        async def meets(home: Path) -> list[int]:
            """Use it, talk beside; what both have signed by then, as `home` has it."""
            client._owing._met.clear()
            await uses(priced, client, 1)
            await asyncio.gather(*client._owing._talking)
            with Tallies.open(home, OPEN_SWARM_ID) as tallies:
                told = [tally for tally, is_mutual in tallies.all() if is_mutual]
                assert all((each.payer, each.payee) == (us, them) for each in told)
                return [each.served for each in told]

        while not (ours := await meets(tmp_path / "client")):  # what is not filed is not signed
            pass
        theirs = await meets(node.home)

        assert ours[0] > 0
        assert theirs[0] in range(ours[0], owed(node, client) + 1)


async def test_39_a_stranger_is_lent_what_a_peer_we_owe_signed_and_a_ring_of_its_own_adds_nothing(
    model, tmp_path
):
    friend, ring = SigningKey.generate(), [SigningKey.generate() for _ in range(3)]
    async with swarm(
        model, tmp_path, lambda identity: GrpcTransport(identity, OPEN_SWARM_ID)
    ) as built:
        limits = Limits(payment=1000, disconnect=1000, newcomer=0)
        (node,) = await built.start((0, N_BLOCKS), rates=RATES, limits=limits)
        owing = node.node.standing.owing
        owing.debts.of_node[friend.public_key] = Passed(spent=60 * NCR)
        async with built.client() as client:

            def shows(*worked_for: SigningKey) -> Showing:
                us = client.identity.key
                kin = Kin(node=ring[0].public_key, client=us.public_key, issued_ms=0)
                tallies = [
                    Tally(
                        payer=payer.public_key,
                        payee=ring[0].public_key,
                        served=80 * NCR,
                        settled=0,
                        issued_ms=0,
                    ).seal(OPEN_SWARM_ID, ring[0], payer)
                    for payer in worked_for
                ]
                signed = kin.seal(OPEN_SWARM_ID, ring[0], us)
                return Showing(kin=signed.encode(), tallies=tuple(t.encode() for t in tallies))

            async def is_served(showing: Showing) -> bool:
                client._owing.shows = showing
                client._owing._met.clear()
                for _ in range(2):  # refused, it shows what it has; then it asks again
                    try:
                        return await uses(built, client) == 5
                    except InDebt:
                        await asyncio.gather(*client._owing._talking)
                return False

            assert not await is_served(shows(*ring[1:]))
            assert await is_served(shows(friend))
            await until(lambda: owed(node, client) == 42 * NCR, timeout_s=5)
            assert owing.vouched(ring[1].public_key, 10**9) == 0
            assert owing.vouched(client.identity.public_key, 10**9) == 60 * NCR
