"""A client that runs for long follows what is found out about peers while it runs, over sockets."""

import asyncio

import pytest

from ledger.auditors import name_auditors, read_auditors
from ledger.findings import Findings
from manyhands.asking import open_client
from manyhands.home import Home
from protocol.errors import ConfigError, SwarmIncomplete, UsageError
from protocol.identity import peer_id_from_public_key
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from scheduler import trust_watch
from tests.checkpoints import write_checkpoint
from tests.ledger.parties import CLIENT, PROVIDER, STRANGER
from tests.ledger.test_judging import AUDITOR
from tests.local_swarm import Swarm, add_byte_tokenizer, whole
from tests.test_fault_news import attested, proven


def keep(directory, told):
    with Findings.open(directory, OPEN_SWARM_ID) as findings:
        findings.add(told)


async def until_shunned(client, key):
    async with asyncio.timeout(10):
        while peer_id_from_public_key(key) not in client.records.trust.shunned:  # noqa: ASYNC110 (a test)
            await asyncio.sleep(0.02)


async def test_a_client_that_runs_avoids_who_is_found_at_fault_by_its_home_or_told_by_nodes(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(trust_watch, "LOOK_S", 0.1)
    monkeypatch.setattr(trust_watch, "HEAR_S", 0.3)
    model = add_byte_tokenizer(write_checkpoint(tmp_path / "model"))
    built = Swarm(model, tmp_path, lambda identity: GrpcTransport(identity, OPEN_SWARM_ID))
    home = Home.at(tmp_path / "home")
    try:
        one, other = await built.start((0, 6), (0, 6))
        async with open_client(home, [one.address, other.address]) as client:
            request = built.request([1, 2, 3], max_tokens=3, ignore_eos=True, wait_s=0.5)
            before = await whole(client.generate(request))

            # Found by another process of this home, as `ledger audit run` is.
            used = {local.node.peer_id: local for local in (one, other)}[before.route[0].peer]
            left = other if used is one else one
            await asyncio.to_thread(keep, home.client, proven(used.node.identity.key))
            await until_shunned(client, used.node.identity.public_key)
            after = await whole(client.generate(request))

            # Told to a node by somebody else; the client asks nodes.
            await asyncio.to_thread(keep, left.home, proven(STRANGER))
            await until_shunned(client, STRANGER.public_key)

            # On the word of an auditor, who is trusted only now.
            accused = PROVIDER.public_key
            await asyncio.to_thread(keep, home.client, attested())
            await asyncio.sleep(0.3)
            assert peer_id_from_public_key(accused) not in client.records.trust.shunned
            name_auditors(home.root, [AUDITOR.public_key])
            await until_shunned(client, accused)

            # Findings that break while it runs leave things as they are.
            shunned = client.records.trust.shunned
            (home.root / "auditors").write_text("nobody\n")
            await asyncio.sleep(0.3)
            assert client.records.trust.shunned == shunned

            await asyncio.to_thread(keep, home.client, proven(left.node.identity.key))
            (home.root / "auditors").unlink()
            await until_shunned(client, left.node.identity.public_key)
            with pytest.raises(SwarmIncomplete, match="quarantine"):
                await whole(client.generate(request))
    finally:
        await built.aclose()

    assert [step.peer for step in after.route] == [left.node.peer_id]


def test_auditors_named_in_a_home_are_read_back_and_nonsense_is_said(tmp_path):
    assert read_auditors(tmp_path) == frozenset()

    name_auditors(tmp_path, [CLIENT.public_key, STRANGER.public_key])

    assert read_auditors(tmp_path) == {CLIENT.public_key, STRANGER.public_key}
    with pytest.raises(UsageError, match="up to 1000"):
        name_auditors(tmp_path, [bytes([n % 256, n // 256]) + bytes(30) for n in range(1001)])
    for nonsense in (b"somebody\n", b"\xff\xfe"):
        (tmp_path / "auditors").write_bytes(nonsense)
        with pytest.raises(ConfigError, match="auditors"):
            read_auditors(tmp_path)
