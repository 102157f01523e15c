"""`manyhands route explain` as a person calls it, against the signed table of a swarm."""

import asyncio
import json
from contextlib import asynccontextmanager

from manyhands.models import find_model
from protocol.announcement_table import AnnouncementTable
from protocol.announcements import Link
from protocol.clock import wall_ms
from protocol.measured import Measured, State
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from tests.announcing import peer_of, record
from tests.cli.command import Ended, assert_explained, manyhands
from tests.gossiping import identity_of, serve_table


@asynccontextmanager
async def a_swarm():
    """A peer that tells of five others; where to ask it, and how to run the command meanwhile."""
    manifest = find_model("tiny").manifest
    now_ms, table = wall_ms(), AnnouncementTable(OPEN_SWARM_ID)
    half, whole = manifest.n_blocks // 2, manifest.n_blocks
    stamp = {"sequence": now_ms, "issued_ms": now_ms, "expires_ms": now_ms + 60_000}
    same = {"manifest": manifest.digest, "n_blocks": whole, "ttl_ms": 60_000, **stamp}
    near = {"links": (Link(peer_of(2), 3_000),), "region": "eu-west"}
    for told in (
        record(1, (0, half), **near, n_sessions=1, **same),
        record(2, (half, whole), region="eu", measured=Measured(queue_us=900), **same),
        record(3, (half, whole), region="us", **same),
        record(4, (0, whole), region="eu", measured=Measured(state=State.MOVING), **same),
        record(5, (0, whole), region="eu", decode_us=10**7, **same),
    ):
        table.merge(told, sender="", now_ms=now_ms)
    async with serve_table(GrpcTransport(identity_of(9), OPEN_SWARM_ID), table) as (member, _):

        async def run(home, *flags: object) -> Ended:
            join = ("--join", member.addresses[0], "--home", home)
            return await asyncio.to_thread(manyhands, "route", "explain", "tiny", *join, *flags)

        yield run, half, whole


async def test_the_choice_and_what_is_not_chosen_are_explained(tmp_path):
    async with a_swarm() as (run, half, whole):
        told = await run(tmp_path, "--json", "--region", "eu")
        shown = await run(tmp_path)
        denied = await run(tmp_path, "--region", "us")

    assert told.code == 0, told.err
    view = json.loads(told.out)
    best = view["routes"][0]
    assert view["schema"] == "manyhands/route-explain/v1"
    assert [(hop["peer"], hop["span"]) for hop in best["hops"]] == [
        (peer_of(1), [0, half]),
        (peer_of(2), [half, whole]),
    ]
    assert best["hops"][0]["spares"] == [peer_of(5)]
    assert best["hops"][1]["parts_ms"]["queue"] == 0.9
    assert {other["peer"]: other["constraint"] for other in view["others"]} == {
        peer_of(3): "region",
        peer_of(4): "state",
        peer_of(5): None,
    }
    assert shown.code == 0
    assert "route 1" in shown.out
    assert "it is moving and takes no new sessions" in shown.out
    assert denied.code == 5
    assert "it is in region eu-west" in denied.out
    assert_explained(
        Ended(5, "", denied.err), 5, f"in region us serves blocks 0:{half}", "--region"
    )
