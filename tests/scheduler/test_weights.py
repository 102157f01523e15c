"""Weights come from peers that have them; a peer that lies about one is found out and named."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from node.files import SharedFile, SharedWeights
from protocol.canonical import encode
from protocol.errors import IntegrityError, PeerBusy, PeerMisbehaved, PeerRefused
from protocol.pieces import METHOD, cut_pieces, header_stop
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from scheduler.weights import Fetch, agreed_hashes
from tests.checkpoints import write_checkpoint
from tests.local_swarm import add_byte_tokenizer, swarm


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return add_byte_tokenizer(
        write_checkpoint(tmp_path_factory.mktemp("model"), max_shard_size="200KB")
    )


@pytest.fixture
async def served(model, tmp_path):
    network = MemoryNetwork()
    async with swarm(
        model, tmp_path, lambda identity: network.transport(identity, OPEN_SWARM_ID), (0, 6)
    ) as built:
        yield built


class Kept:
    """What arrived, as a fetcher keeps it."""

    def __init__(self):
        self.data, self.sound = {}, {}

    def keep(self, piece, start, data):
        self.data.setdefault((piece.file, piece.start), {})[start] = data

    def done(self, piece, hashes):
        parts = self.data[piece.file, piece.start]
        self.sound[piece] = b"".join(parts[start] for start in sorted(parts))


@asynccontextmanager
async def asking(served, names, **settings):
    async with served.client() as client:
        hosts = (await client.directory()).hosts(served.manifest.digest)
        agreed = await agreed_hashes(client.transport, hosts, served.manifest.digest, names)
        kept = Kept()
        yield (
            hosts,
            kept,
            Fetch(
                transport=client.transport,
                manifest=served.manifest,
                hashes=agreed.hashes,
                pieces=cut_pieces(served.manifest, names, piece_bytes=30_000),
                keep=kept.keep,
                done=kept.done,
                **settings,
            ),
            agreed,
        )


def block(served, number):
    return [name for name in served.manifest.tensors if f"layers.{number}." in name]


async def test_every_piece_arrives_whole_in_runs_of_any_length(served, model):
    async with asking(served, block(served, 2), call_bytes=999) as (hosts, kept, fetch, agreed):
        await fetch.run(hosts)

    assert set(kept.sound) == set(fetch.pieces)
    for piece, data in kept.sound.items():
        assert data == (model / piece.file).read_bytes()[piece.start : piece.stop]
    assert agreed.alone == set(block(served, 2))
    assert served.nodes[0].node.shared.bytes_shared == sum(map(len, fetch.pieces))


def forge(node, model, tmp_path):
    """Make a node serve zeros for every tensor; headers stay."""
    for name, file in list(node.shared._files.items()):
        data = (model / name).read_bytes()
        header = 8 + int.from_bytes(data[:8], "little")
        (tmp_path / name).write_bytes(data[:header] + bytes(len(data) - header))
        node.shared._files[name] = replace(file, path=tmp_path / name)


async def test_a_peer_that_serves_other_bytes_is_named_and_the_next_one_is_asked(
    served, model, tmp_path
):
    await served.start((0, 3))
    liar = served.nodes[0].node
    forge(liar, model, tmp_path)

    async with asking(served, served.manifest.tensors) as (hosts, kept, fetch, _):
        assert len(hosts) == 2
        await fetch.run(hosts)

    assert list(fetch.blamed) == [liar.identity.peer_id]
    assert "it served other bytes as " in fetch.blamed[liar.identity.peer_id]
    for piece, data in kept.sound.items():
        assert data == (model / piece.file).read_bytes()[piece.start : piece.stop]
    assert set(kept.sound) == set(fetch.pieces)


async def test_where_every_peer_lies_the_tensor_and_the_peers_are_named(served, model, tmp_path):
    liar = served.nodes[0].node
    forge(liar, model, tmp_path)

    async with asking(served, block(served, 1)) as (hosts, _, fetch, _agreed):
        with pytest.raises(IntegrityError, match=liar.identity.peer_id):
            await fetch.run(hosts)


async def test_a_forged_header_is_as_good_as_a_forged_tensor(served, tmp_path):
    liar = served.nodes[0].node
    for name, file in list(liar.shared._files.items()):
        data = file.path.read_bytes().replace(b'"dtype":"F32"', b'"dtype":"I32"')
        (tmp_path / name).write_bytes(data)
        liar.shared._files[name] = replace(file, path=tmp_path / name)

    async with asking(served, block(served, 1)) as (hosts, kept, fetch, _agreed):
        with pytest.raises(IntegrityError, match=r"the header of model-0000\d"):
            await fetch.run(hosts)

    assert not any(piece.is_header for piece in kept.sound)


async def test_peers_that_are_divided_about_a_tensor_are_not_asked_for_it(served):
    await served.start((0, 3))
    name = block(served, 1)[0]
    other = served.manifest.with_hashes({name: bytes(32)})
    served.nodes[1].node.model.files["manifest"] = other.to_json()

    async with asking(served, block(served, 1)) as (_, _, _, agreed):
        assert agreed.disputed == {name}
        assert name not in agreed.hashes
        assert len(agreed.hashes) == len(block(served, 1)) - 1
        assert not agreed.alone


async def test_what_no_peer_shares_is_an_honest_refusal(served):
    served.nodes[0].node.shared._files.clear()

    async with asking(served, block(served, 1)) as (hosts, _, fetch, _):
        with pytest.raises(PeerRefused, match="none of 1 peers shares"):
            await fetch.run(hosts)


async def test_a_node_shares_no_byte_that_it_does_not_vouch_for(served):
    file = next(iter(served.manifest.tensors.values())).file
    shared, digest = served.nodes[0].node.shared, served.manifest.digest
    stop = header_stop(served.manifest, file)
    shared._files[file] = replace(shared._files[file], ranges=((0, stop),))

    async with served.client() as client:
        connection = await client.transport.dial(served.nodes[0].address)

        async def ask(*fields):
            return await connection.call(METHOD, encode(list(fields)), timeout_s=5)

        assert len(await ask(digest, file, 0, stop)) == stop
        for refused in (
            (digest, file, 0, stop + 1),
            (digest, file, stop, 1),
            (digest, "../identity.key", 0, 8),
            (digest, "config.json", 0, 8),
            (bytes(32), file, 0, 8),
        ):
            with pytest.raises(PeerRefused):
                await ask(*refused)
        for nonsense in (
            (digest, file, 0, 0),
            (digest, file, 0, 9 << 20),
            (digest, file, 0),
            (digest, 3, 0, 8),
        ):
            with pytest.raises(PeerMisbehaved):
                await ask(*nonsense)
        await connection.aclose()


async def test_who_asks_when_many_ask_already_is_told_to_wait(tmp_path):
    (tmp_path / "file").write_bytes(bytes(100))
    shared = SharedWeights(
        bytes(32), {"f": SharedFile(tmp_path / "file", ((0, 100),))}, lambda: True
    )
    asked = encode([bytes(32), "f", 0, 100])

    answers = await asyncio.gather(
        *(shared.handle("peer", asked) for _ in range(20)), return_exceptions=True
    )

    assert [type(answer) for answer in answers] == [bytes] * 16 + [PeerBusy] * 4
    assert shared.bytes_shared == 1600


async def test_a_file_that_shrank_or_went_away_is_refused_and_nothing_breaks(tmp_path):
    (tmp_path / "short").write_bytes(b"x")
    files = {name: SharedFile(tmp_path / name, ((0, 100),)) for name in ("short", "gone")}
    shared = SharedWeights(bytes(32), files, lambda: False)

    for name in files:
        with pytest.raises(PeerRefused):
            await shared.handle("peer", encode([bytes(32), name, 0, 100]))
