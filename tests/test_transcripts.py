"""What earlier versions said is understood today, byte by byte, and answered by real hops."""

import asyncio
import re
from pathlib import Path

import pytest

from ledger.receipts import Receipt, open_receipt
from protocol.announcement_table import TAKEN, AnnouncementTable
from protocol.announcements import read_announcement, seal_announcement, verify_announcement
from protocol.anti_entropy import GossipMessage, Record
from protocol.codec import (
    data_bytes,
    data_message,
    to_client_bytes,
    to_client_message,
    to_hop_bytes,
    to_hop_message,
)
from protocol.load import Load
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.greeting import FEATURES, Greeting
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer
from tests.replaying import (
    CLIENT,
    FIRST,
    LAST,
    PATIENCE_S,
    Heard,
    Neighbour,
    Transcript,
    again,
    n_rows,
    play_client,
    transcripts,
)

EACH = pytest.mark.parametrize("old", transcripts(), ids=lambda old: old.path.parent.name)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


def is_same_model(old: Transcript, model: Path, home: Path) -> bool:
    """Whether this library still makes the very weights that were recorded."""
    return Swarm(model, home, lambda who: None).manifest.digest == old.manifest  # type: ignore[arg-type,return-value]


@EACH
def test_every_message_of_a_session_is_read_and_would_be_written_alike(old):
    for data in old.all_messages("control", "said"):
        assert to_hop_bytes(to_hop_message(data)) == data
    for data in old.all_messages("control", "heard"):
        assert to_client_bytes(to_client_message(data)) == data
    for way in ("said", "heard"):
        for data in old.all_messages("data", way):
            assert data_bytes(data_message(data)) == data
    assert old.all_messages("data", "said")


@EACH
def test_announcements_and_gossip_are_read_and_merged(old):
    table = AnnouncementTable(OPEN_SWARM_ID)
    now_ms = old.told["recorded_ms"]
    for data in map(bytes.fromhex, old.told["announcements"]):
        announcement, envelope = read_announcement(data)
        verify_announcement(announcement, envelope, OPEN_SWARM_ID)
        name = next(n for n in (FIRST, LAST) if old.peer(n) == announcement.peer_id)
        assert seal_announcement(announcement, OPEN_SWARM_ID, old.identity(name).key) == data
        assert table.merge(Record(30_000, data), sender="old", now_ms=now_ms) in TAKEN
    for said in old.calls("gossip"):
        for data in filter(None, said):
            assert GossipMessage.decode(data, sender="old").encode() == data
    assert {peer.peer_id for peer in table.live(now_ms)} == {old.peer(FIRST), old.peer(LAST)}
    for request, answer in old.calls("load"):
        assert request == b""
        Load.decode(answer)


@EACH
def test_receipts_hold(old):
    for data in map(bytes.fromhex, old.told["receipts"]):
        receipt = Receipt.decode(data)
        assert receipt.encode() == data
        tab = open_receipt(receipt, OPEN_SWARM_ID)
        assert tab.terms.payer == old.identity(CLIENT).public_key
        assert tab.terms.manifest == old.manifest


@EACH
def test_a_greeting_of_then_is_one_that_today_talks_to(old):
    greeting = Greeting.read((key, value) for key, value in old.told["greeting"])

    assert greeting is not None
    assert greeting.features <= FEATURES
    ours = Greeting(1, OPEN_SWARM_ID)
    assert ours.refusal(greeting, caller=old.peer(CLIENT), listener=old.peer(FIRST)) is None


def check_tokens(old: Transcript, heard: Heard, *, is_same: bool) -> None:
    recorded = old.told["token_ids"]
    assert len(heard.tokens) == len(recorded)
    if is_same:
        assert [event.token_id for event in heard.tokens] == recorded


@EACH
async def test_two_hops_of_today_serve_a_client_that_speaks_as_then(old, model, tmp_path):
    heard = Heard()
    async with again(old, model, tmp_path, FIRST, LAST) as nodes:
        where = {name: str(local.address) for name, local in nodes.items()}
        first = asyncio.create_task(play_client(old, FIRST, where[FIRST], where[LAST], Heard()))
        await play_client(old, LAST, where[LAST], where[FIRST], heard)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    check_tokens(old, heard, is_same=is_same_model(old, model, tmp_path / "none"))
    assert heard.closed is not None
    assert heard.closed.receipt, "it was settled and filed"


async def played(old: Transcript, model: Path, home: Path, name: str) -> tuple[Heard, Neighbour]:
    """One hop of today between a client and a neighbour that speak as then."""
    neighbour, heard = Neighbour(old, FIRST if name == LAST else LAST), Heard()
    async with again(old, model, home, name) as nodes, neighbour.listening() as beside:
        where = str(nodes[name].address)
        speaking = asyncio.create_task(neighbour.speak(where, heard))
        client = asyncio.create_task(play_client(old, name, where, beside, heard))
        async with asyncio.timeout(PATIENCE_S):
            await neighbour.is_whole.wait()
            if name == LAST:
                await client
        for task in (speaking, client):
            task.cancel()
        await asyncio.gather(speaking, client, return_exceptions=True)
    return heard, neighbour


@EACH
async def test_the_last_hop_of_today_takes_the_rows_of_a_hop_of_then(old, model, tmp_path):
    heard, neighbour = await played(old, model, tmp_path, LAST)

    is_same = is_same_model(old, model, tmp_path / "none")
    check_tokens(old, heard, is_same=is_same)
    if is_same:
        now = b"".join(bytes(frame.body) for frame in neighbour.frames)
        assert now == b"".join(bytes(frame.body) for frame in neighbour.then)


@EACH
async def test_the_first_hop_of_today_pushes_what_a_hop_of_then_can_take(old, model, tmp_path):
    _, neighbour = await played(old, model, tmp_path, FIRST)

    now, then = neighbour.frames, neighbour.then
    assert n_rows(now) == n_rows(then)
    assert {f.row_bytes for f in now} == {f.row_bytes for f in then}
    for frame in now:
        assert data_message(data_bytes(frame)) == frame
        assert {group.session for group in frame.groups} == {then[0].groups[0].session}


def test_the_changelog_names_every_field_that_came_after_the_first_session():
    root = Path(__file__).parents[1]
    wire = (root / "proto/manyhands/v1/hop.proto").read_text()
    changes = (root / "CHANGELOG.md").read_text().partition("### Protocol")[2].lower()
    added = {name for name, number in re.findall(r"(\w+) = (\d+);", wire) if int(number) >= 40}

    assert {"fork", "constraints", "leaving"} <= added
    assert [name for name in sorted(added) if f"`{name}`" not in changes] == []


def test_there_is_a_transcript_of_each_version():
    names = [old.path.parent.name for old in transcripts()]
    assert names == ["v1", "v1-constraints", "v1-fingerprints"]


def test_the_newest_transcript_tells_every_feature_of_today():
    newest = max(transcripts(), key=lambda old: int(old.told["recorded_ms"]))
    told = Greeting.read((key, value) for key, value in newest.told["greeting"])

    assert told is not None
    assert told.features >= FEATURES, "record one more: docs/protocol-versions.md"
