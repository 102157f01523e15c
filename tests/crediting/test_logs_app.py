"""Spend logs over HTTP: a reader with nothing but C2SP tiles gets the tree that was signed."""

import httpx2
import pytest

from ledger.checkpoint import Checkpoint
from ledger.cosigning import Witnesses
from ledger.merkle import leaf_hash, root
from ledger.notes import Note
from ledger.spend_books import SpendBooks
from ledger.spend_log import SpendLog
from ledger.tiles import TileTree, tiles_of, unbundle
from manyhands.gateway.serving import listening
from manyhands.witnessing.logs_app import LogsApp
from tests.ledger.spenders import ANN, BEN, ISSUER, SWARM, grant


@pytest.fixture
async def url(tmp_path):
    with (
        SpendLog.open(tmp_path / "log", ISSUER, SWARM) as log,
        SpendBooks.open(tmp_path, SWARM, Witnesses()) as books,
    ):
        log.append(*(grant(ANN, 1 + n, no=n) for n in range(300)))
        books.learn(log.account, log.checkpoint(), log.leaves())
        async with listening(LogsApp(books.shelf), "127.0.0.1", 0) as port:
            yield f"http://127.0.0.1:{port}"


async def test_17_a_log_read_as_tiles_gives_the_root_that_was_signed(url):
    base = f"{url}/{ISSUER.public_key.hex()}"
    async with httpx2.AsyncClient() as client:
        note = (await client.get(f"{base}/checkpoint")).text
        head = Checkpoint.parse(Note.parse(note).text)
        paths = [tile.path() for level in (0, 1) for tile in tiles_of(head.size, level)]
        tiles = {path: await client.get(f"{base}/{path}") for path in paths}
        entries = []
        for tile in tiles_of(head.size, None):
            entries += unbundle((await client.get(f"{base}/{tile.path()}")).content)

    tree = TileTree(head.size, lambda path: tiles[path].content)
    assert root(head.size, tree.node_at) == head.root
    assert [leaf_hash(each) for each in entries] == [tree.node_at(0, n) for n in range(head.size)]
    kept = {path: answer.headers["cache-control"] for path, answer in tiles.items()}
    assert "immutable" in kept["tile/0/000"]
    assert kept["tile/0/001.p/44"] == "no-cache"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", f"/{BEN.public_key.hex()}/checkpoint", 404),
        ("GET", f"/{ISSUER.public_key.hex()}/tile/0/002", 404),
        ("GET", f"/{ISSUER.public_key.hex()}/../spend.sqlite", 404),
        ("POST", f"/{ISSUER.public_key.hex()}/checkpoint", 405),
        ("HEAD", f"/{ISSUER.public_key.hex()}/checkpoint", 200),
    ],
)
async def test_what_is_no_part_of_a_log_is_not_there(url, method, path, status):
    async with httpx2.AsyncClient() as client:
        answered = await client.request(method, url + path)

    assert answered.status_code == status
