"""Whom a node lets sit beside it in a session: by what it knows, and what clients send along."""

from dataclasses import replace

import pytest

from node.vetting import Vetting
from protocol.announcement_table import AnnouncementTable
from protocol.announcements import Link
from protocol.clock import wall_ms
from protocol.constraints import NONE, Constraints
from protocol.errors import ConstraintBroken, PeerBusy
from protocol.record_pages import write_records
from protocol.signing import OPEN_SWARM_ID
from tests.announcing import announce, peer_of, record

OWN, CLIENT, OTHER = 1, 2, 3
EU = Constraints(regions=("eu",))
PAIR = [peer_of(OWN), peer_of(OTHER)]


def now(**changes: object) -> dict[str, object]:
    at = wall_ms()
    return {"sequence": at, "issued_ms": at, "expires_ms": at + 30_000} | changes


def vetting(*known: dict[str, object]) -> Vetting:
    """Of a node in Europe, that has heard these announcements."""
    table = AnnouncementTable(OPEN_SWARM_ID)
    for changes in known:
        table.merge(record(**changes), sender="gossip", now_ms=wall_ms())  # type: ignore[arg-type]
    own = announce(OWN, region="eu")
    return Vetting(peer_of(OWN), OPEN_SWARM_ID, table, lambda: own)


def route(rules: Vetting, constraints: Constraints = EU, records: bytes = b"") -> None:
    rules.route(constraints, PAIR, (peer_of(OTHER),) * 2, records, peer_of(CLIENT))


def test_a_neighbour_of_whom_nothing_is_known_is_not_let_in_nor_blamed():
    with pytest.raises(PeerBusy, match="nothing is known here of"):
        route(vetting())


def test_a_record_that_the_client_sends_along_introduces_the_neighbour():
    route(vetting(), records=write_records([record(OTHER, **now(region="eu"))]))


def test_an_older_record_that_the_client_sends_along_hides_nothing():
    """Such as one of when the neighbour still said what the client would like to hear."""
    later = now()
    earlier = now(sequence=later["sequence"] - 5_000, region="eu")  # type: ignore[operator]
    rules = vetting({"n": OTHER, **later, "region": "us"})

    with pytest.raises(ConstraintBroken, match="it is in region us"):
        route(rules, records=write_records([record(OTHER, **earlier)]))


def test_a_forged_record_introduces_nobody():
    with pytest.raises(PeerBusy):
        route(vetting(), records=write_records([record(OTHER, signer=CLIENT, **now(region="eu"))]))


def test_sessions_that_ask_for_nothing_have_any_neighbours():
    route(vetting(), NONE)


def test_a_region_that_others_contradict_is_none_unless_the_client_believes_it():
    too_near = (Link(peer_of(OTHER), 500),)
    observers = [{"n": n, **now(region="au", links=too_near)} for n in (7, 8)]
    rules = vetting({"n": OTHER, **now(region="eu")}, *observers)

    with pytest.raises(ConstraintBroken, match="2 peers elsewhere are too near") as error:
        route(rules)
    assert error.value.constraint == "region"
    route(rules, replace(EU, believes_regions=True))
