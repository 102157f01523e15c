"""`swarm why`: each thing that keeps a peer from being used is told by its source."""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from click.testing import CliRunner

from manyhands.cli import root
from manyhands.home import Home, open_identity
from manyhands.membership import enter
from manyhands.why import Known, is_usable, reasons
from node.barring import write_bans
from protocol.address import Address
from protocol.announcements import Link
from protocol.bans import Ban
from protocol.clock import wall_ms
from protocol.errors import PeerUnreachable
from protocol.identity import Identity
from protocol.measured import Measured, State
from protocol.membership.advisories import Severity
from protocol.membership.certificates import Ruling, Verdict
from protocol.membership.roles import Role
from protocol.membership.state import SwarmState
from protocol.reachability import Nat, Reach
from protocol.reachability import Verdict as Reached
from scheduler.peer_record import PeerRecords
from scheduler.record_file import write_records
from scheduler.wanted import Limits, Wanted
from tests.announcing import MANIFEST, announce, key_of, peer_of
from tests.cli.command import assert_explained
from tests.doctor.peers import announced, nobody, peer
from tests.membership import (
    FOUNDER,
    RELEASERS,
    WARNERS,
    advise,
    govern,
    open_to,
    release,
)

SIMPLE = Wanted(manifest=MANIFEST, n_blocks=8, n_positions=1024)


@pytest.fixture
def tell(tmp_path):
    """Ask about a peer while others run; what is told."""

    async def run(*peers, of: Callable[[list[Address]], object], **flags: object):
        async with AsyncExitStack() as stack:
            addresses = [await stack.enter_async_context(one) for one in peers]
            said = of(addresses)
            line = ["swarm", "why", said, "--json", "--home", tmp_path / "home"]
            line += [f"--join={address}" for address in addresses[:1]]
            line += [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
            ended = await asyncio.to_thread(CliRunner().invoke, root, list(map(str, line)))
        assert ended.exit_code == 0, ended.output
        view = json.loads(ended.stdout)
        assert view["schema"] == "manyhands/swarm-why/v1"
        bad = {r["source"]: r["text"] for r in view["reasons"] if r["verdict"] == "fail"}
        assert view["usable"] == (not bad)
        return bad, view

    return run


async def test_a_peer_that_answers_and_serves_is_usable(tell):
    bad, view = await tell(peer(1), of=lambda addresses: peer_of(1))

    assert not bad
    assert [each["error"] for each in view["dialled"]] == [None]
    assert {reason["source"] for reason in view["reasons"]} >= {"directory", "dial", "constraints"}


async def test_a_peer_may_be_named_by_how_tables_end_it(tell):
    bad, view = await tell(peer(1), of=lambda addresses: f"…{peer_of(1)[-6:]}")

    assert (bad, view["peer"]) == ({}, peer_of(1))


async def test_a_peer_that_nobody_knows_is_told_with_how_many_were_asked(tell):
    bad, _ = await tell(peer(1), of=lambda addresses: peer_of(2))

    assert bad == {"directory": "none of the 1 peers that were asked knows an announcement of it"}


async def test_when_nobody_could_be_asked_the_reason_is_told(tell):
    bad, view = await tell(peer(1, version=99), of=lambda addresses: peer_of(2))

    assert bad["directory"].startswith("nobody could be asked: ")
    assert "the caller is older" in bad["directory"]
    [fix] = [each["fix"] for each in view["reasons"] if each["source"] == "directory"]
    assert "join the same swarm" not in fix


async def test_an_address_at_which_nobody_answers_and_one_where_another_peer_does(tell):
    dead = nobody(2)
    gone = announced(Identity(key_of(2)), dead, wall_ms())

    unreachable, _ = await tell(peer(1, gone), of=lambda addresses: peer_of(2))
    impostor, view = await tell(peer(1), of=lambda at: Address("127.0.0.1", at[0].port, peer_of(3)))

    assert dead.target in unreachable["dial"]
    assert "is peer" in impostor["dial"]
    assert [each["error"] for each in view["dialled"]] == ["peer_misbehaved"]


async def test_a_peer_of_another_protocol_version_is_told_by_that(tell):
    bad, _ = await tell(peer(1), peer(2, version=99), of=lambda addresses: addresses[1])

    assert "version" in bad


async def test_what_it_does_and_asks_is_judged_as_routing_does(tell):
    leaving = Measured(state=State.DRAINING)

    draining, _ = await tell(peer(1, measured=leaving), of=lambda addresses: peer_of(1))
    grouped, _ = await tell(peer(1), of=lambda addresses: peer_of(1), group="lab")
    tight, _ = await tell(peer(1), of=lambda addresses: peer_of(1), tokens=100_000)

    assert draining["constraints"].startswith("state: it is draining")
    assert "health" in draining
    assert grouped["constraints"].startswith("group: ")
    assert tight["constraints"].startswith("context: ")


async def test_whom_measurements_contradict_is_outside_the_region_that_it_says(tell):
    def seen_by(n: int) -> bytes:
        links = (Link(peer_of(1), 2_000),)
        who, at = Identity(key_of(n)), nobody(n)
        return announced(who, at, wall_ms(), region="eu", links=links)

    def swarm():
        return peer(1, seen_by(2), seen_by(3), region="us-east")

    asked, _ = await tell(swarm(), of=lambda addresses: peer_of(1), region="us-east")
    not_asked, view = await tell(swarm(), of=lambda addresses: peer_of(1))

    assert asked["constraints"].startswith("believe-regions: measurements contradict its region")
    assert not not_asked
    [told] = [each["text"] for each in view["reasons"] if each["source"] == "health"]
    assert "2 peers elsewhere are too near" in told


async def test_a_client_is_told_that_it_serves_nobody(tell, tmp_path):
    mine = open_identity(Home.at(tmp_path / "home").client).peer_id

    bad, _ = await tell(peer(1), of=lambda addresses: mine)

    assert "client of this home" in bad["identity"]


async def test_who_was_lost_and_said_nothing_since_is_told(tell, tmp_path):
    records = PeerRecords()
    known = announce(1, sequence=2**62)
    records.note_failure(peer_of(1), PeerUnreachable(peer_of(1), "gone"), time.time(), known)
    home = Home.at(tmp_path / "home")
    home.client.mkdir()
    write_records(home.client / "peers.json", records)

    bad, _ = await tell(peer(1), of=lambda addresses: peer_of(1))

    assert "has not announced itself since" in bad["record"]


def test_a_name_that_nobody_has_is_a_mistake_and_nobody_to_ask_too(here, tmp_path):
    assert_explained(here("swarm", "why", "…nobody", "--home", tmp_path), 4, "--join")


# The rules, where a swarm with members would take long to make


def known_of(announcement=None, **more) -> Known:
    from manyhands.condition import Seen

    ours = announce(1) if announcement is None else announcement
    fields = {
        "peer_id": ours.peer_id,
        "ours": {},
        "announced": ours,
        "asked": 3,
        "seen": Seen(),
        "dialled": {ours.addresses[0]: 0.4},
        "load": None,
        "state": None,
        "standing": None,
        "risk_ms": 0.0,
        "complaints": (),
        "now_ms": wall_ms(),
    }
    return Known(**{**fields, **more})


def bad_sources(known: Known, wanted: Wanted = SIMPLE) -> list[str]:
    return [reason.source for reason in reasons(known, wanted) if reason.verdict == "fail"]


def test_a_peer_that_an_admin_denied_or_that_may_not_provide_is_told(tmp_path):
    state = SwarmState(open_to(frozenset()))
    stranger = known_of(state=state)
    ruling = Ruling(
        peer=key_of(1).public_key, verdict=Verdict.DENIED, stamp_ms=wall_ms(), roles=frozenset()
    )
    denied = SwarmState(state.founding)
    denied.learn(ruling.seal(denied.swarm_id, key_of(FOUNDER)))
    enter(Home.at(tmp_path), state, {})

    assert bad_sources(stranger) == ["membership"]
    [first, *_] = reasons(known_of(state=denied), SIMPLE)
    assert (first.source, "denies it" in first.text) == ("membership", True)


def test_whose_membership_was_revoked_is_told_so_before_that_nobody_knows_it():
    state = SwarmState(open_to(frozenset()))
    unheard = known_of(state=state, announced=None, dialled={})
    before = bad_sources(unheard)
    ruling = Ruling(peer=key_of(1).public_key, verdict=Verdict.REVOKED, stamp_ms=wall_ms())
    state.learn(ruling.seal(state.swarm_id, key_of(FOUNDER)))

    [first, second] = reasons(unheard, SIMPLE)

    assert before == ["directory"]
    assert (first.source, "was revoked" in first.text) == ("membership", True)
    assert second.source == "directory"


def test_a_model_that_its_swarm_stopped_or_has_not_released_is_told_with_what_mends_it():
    state = SwarmState(open_to(frozenset({Role.PROVIDE})))
    state.learn(govern(state))
    unreleased = [each for each in reasons(known_of(state=state), SIMPLE) if each.verdict == "fail"]
    state.learn(release(state, *RELEASERS[:2]))
    released = bad_sources(known_of(state=state))
    state.learn(advise(state, WARNERS[0], severity=Severity.FLAG))
    flagged = reasons(known_of(state=state), SIMPLE)
    state.learn(advise(state, WARNERS[0], id="A-2"))

    [why] = unreleased
    assert (why.source, "has not released it" in why.text) == ("governance", True)
    assert why.fix.startswith("manyhands models release tiny --channel stable")
    assert released == []
    assert is_usable(flagged)
    assert any("weights were poisoned" in r.text for r in flagged if r.source == "governance")
    assert bad_sources(known_of(state=state)) == ["governance"]


def test_a_node_that_says_it_is_held_is_not_usable_and_a_reason_told_once():
    held = known_of(held="swarm den has not released it in channel stable")

    assert bad_sources(held) == ["governance"]


async def test_a_ban_of_this_homes_node_is_told_until_it_ends(tell, tmp_path):
    home = Home.at(tmp_path / "home")
    home.node.mkdir()
    ban = Ban(peer_id=peer_of(1), why="it sends junk", until_ms=wall_ms() + 600_000)
    write_bans(home.bans, [ban])

    bad, view = await tell(peer(1), of=lambda addresses: peer_of(1))

    assert bad == {
        "ban": "the node of this home does not hear it for 10 more minutes: it sends junk"
    }
    assert f"manyhands peers unban {peer_of(1)}" in [each["fix"] for each in view["reasons"]]
    assert is_usable(reasons(known_of(ban=replace(ban, until_ms=1)), SIMPLE))


def test_one_address_that_answers_is_enough():
    two = announce(1)
    other = Address("10.9.9.9", 31400, two.peer_id)
    half = {two.addresses[0]: 0.4, other: PeerUnreachable(two.peer_id, "refused")}

    assert is_usable(reasons(known_of(dialled=half), SIMPLE))
    assert bad_sources(known_of(dialled={other: half[other]})) == ["dial"]


def test_by_its_own_word_a_peer_behind_a_router_is_not_dialled():
    behind = announce(1, reach=Reach(verdict=Reached.NAT, nat=Nat.SYMMETRIC))

    assert bad_sources(known_of(behind)) == ["reachability"]


def test_what_was_asked_for_rules_it_out():
    far = Wanted(manifest=MANIFEST, n_blocks=8, n_positions=8, limits=Limits(regions=("eu",)))

    assert bad_sources(known_of(), far) == ["constraints"]
