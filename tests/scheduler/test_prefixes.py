"""What a client calls the beginnings of its sessions, and which chain it goes back to."""

import random
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.announcement_table import AnnouncementTable
from protocol.asking import MAX_PREFIXES, PREFIX_BYTES
from protocol.chain_actions import FindRoute, Seat
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError, PeerBusy, PeerMisbehaved
from protocol.identity import Identity
from protocol.messages import SessionId, Span
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.transport.memory import MemoryNetwork
from scheduler import GenerationRequest
from scheduler.directory import Directory
from scheduler.finder import RouteFinder
from scheduler.prefixes import (
    MIN_PREFIX,
    STRIDE,
    Familiar,
    Prefixes,
    name_positions,
    prefix_digests,
)
from tests.announcing import MANIFEST, peer_of, record

CHAIN = (Seat("A", Span(0, 3)), Seat("B", Span(3, 6)))
PROMPT = [(7 * i) % 250 for i in range(200)]
FIRST, SECOND = SessionId(b"1" * 16), SessionId(b"2" * 16)


def request(ids: list[int], **what: object) -> GenerationRequest:
    asked = GenerationRequest(manifest=b"m" * 32, n_blocks=6, prompt_ids=tuple(ids))
    return replace(asked, **what)  # type: ignore[arg-type]


def identity(seed: int = 1) -> Identity:
    return Identity(SigningKey.from_seed(bytes([seed]) * 32))


@given(st.integers(0, 1 << 20), st.frozensets(st.integers(0, 1 << 20), max_size=20))
def test_positions_are_few_ascending_and_within_the_history(n, ends):
    positions = name_positions(n, ends)

    assert len(positions) <= MAX_PREFIXES
    assert list(positions) == sorted(set(positions))
    assert all(MIN_PREFIX <= at <= n for at in positions)


@given(st.integers(STRIDE, 1 << 18), st.integers(0, 1 << 18))
def test_a_longer_history_has_a_name_in_common_with_a_shorter_one(n, more):
    short, long = name_positions(n, set()), name_positions(n + more, set())
    stride = long[0]

    assert set(short) >= {at for at in long if at <= n}
    assert not long or all(at % stride == 0 for at in long)


@given(
    st.lists(st.integers(0, 2**31), min_size=1, max_size=40),
    st.lists(st.integers(0, 2**31), max_size=40),
)
def test_equal_beginnings_have_equal_names_and_others_do_not(ids, more):
    positions = list(range(1, len(ids) + 1))
    digests = prefix_digests(b"salt", CHAIN, ids, positions)
    longer = prefix_digests(b"salt", CHAIN, ids + more, positions)
    changed = prefix_digests(b"salt", CHAIN, [ids[0] ^ 1, *ids[1:]], positions)
    split = [digests[i : i + PREFIX_BYTES] for i in range(0, len(digests), PREFIX_BYTES)]

    assert longer == digests
    assert len({*split}) == len(ids)
    assert not {*split} & {changed[i : i + 16] for i in range(0, len(changed), 16)}


def test_every_hop_every_way_to_it_and_every_salt_has_its_own_names():
    other_way = (Seat("X", Span(0, 3)), CHAIN[1])
    other_cut = (Seat("A", Span(0, 2)), Seat("B", Span(2, 6)))
    names = [
        prefix_digests(salt, path, PROMPT, [100])
        for salt in (b"one", b"two")
        for path in (CHAIN[:1], CHAIN, other_way, other_cut)
    ]

    assert len({*names}) == 8


def test_the_salt_outlives_the_process_and_a_group_shares_its_own():
    def names(seed: int, **what: object) -> bytes:
        asked = request(PROMPT, **what)
        return Prefixes(identity(seed)).session(FIRST, asked).names(PROMPT, CHAIN).digests

    assert names(1) == names(1)
    assert names(1) != names(2)
    assert names(1, prefix_group="g") == names(2, prefix_group="g") != names(1)
    assert names(1, prefix_group="g") != names(1, prefix_group="h")
    assert names(1, reuse_prefix=False) == b""


def test_the_row_that_draws_is_never_named():
    session = Prefixes(identity()).session(FIRST, request(PROMPT[:128]))

    assert session.names(PROMPT[:128], CHAIN).positions == (64, 127)


@pytest.mark.parametrize("length", [1, 63, 65, 128, 1 << 23])
def test_a_hop_that_offers_what_nobody_asked_for_cheats(length):
    session = Prefixes(identity()).session(FIRST, request(PROMPT[:128]))
    assert session.ask(PROMPT[:128], CHAIN).positions == (64, 127)

    for honest in (0, 64, 127):
        session.check("B", honest)
    with pytest.raises(PeerMisbehaved, match="nobody asked for"):
        session.check("B", length)


def test_the_chain_that_ran_most_of_a_prompt_is_remembered_with_its_end():
    client = Prefixes(identity())
    history = [*PROMPT, 1, 2, 3]
    client.session(FIRST, request(PROMPT)).remember(history, CHAIN)
    client.session(SECOND, request(PROMPT[:100])).remember(PROMPT[:100], CHAIN[::-1])

    follow_up = client.session(SessionId(b"3" * 16), request([*history, 4, 5]))
    stranger = client.session(SessionId(b"4" * 16), request([9, *PROMPT]))
    other_model = client.session(SessionId(b"5" * 16), request(history, manifest=b"x" * 32))
    other_group = client.session(SessionId(b"6" * 16), request(history, prefix_group="g"))

    assert follow_up.familiar is not None
    assert follow_up.familiar.seats == CHAIN
    assert follow_up.familiar.length == len(history)
    assert len(history) - 1 in follow_up.names([*history, 4, 5], CHAIN).positions
    assert stranger.familiar is other_model.familiar is other_group.familiar is None


def test_what_is_remembered_has_a_limit():
    client, rng = Prefixes(identity()), random.Random(1)
    for number in range(200):
        ids = [rng.randrange(250) for _ in range(50)]
        client.session(SessionId(bytes([number]) * 16), request(ids)).remember(ids, CHAIN)

    assert len(client._past) == 64
    assert client.session(FIRST, request(ids)).familiar is not None


def looking(familiar: Familiar, *, max_tokens: int = 32, **announced: object) -> RouteFinder:
    """Peers 1 and 2 serve all blocks; the first is familiar, and announces this of itself."""
    now_ms = wall_ms()
    table = AnnouncementTable(OPEN_SWARM_ID)
    stamp = {"sequence": now_ms, "issued_ms": now_ms, "expires_ms": now_ms + 30_000}
    for told in (record(1, **stamp, **announced), record(2, **stamp)):
        table.merge(told, sender="", now_ms=now_ms)
    asked = request([1], manifest=MANIFEST, n_blocks=8, max_tokens=max_tokens)
    transport = MemoryNetwork().transport(identity(), OPEN_SWARM_ID)
    return RouteFinder(asked, transport, Directory(table), (), random.Random(1), familiar)


async def chosen(finder: RouteFinder, avoid: dict[str, ManyhandsError] | None = None) -> str:
    [seat] = await finder.find(FindRoute(0, (Span(0, 8),), (), avoid or {}), time.monotonic() + 60)
    return seat.peer


KNOWS = Familiar((Seat(peer_of(1), Span(0, 8)),), length=1000)


async def test_the_familiar_chain_is_taken_though_another_is_a_little_quicker():
    assert await chosen(looking(KNOWS, decode_us=9600)) == peer_of(1)


async def test_a_far_slower_one_is_taken_only_while_it_saves_more_than_it_costs():
    saves_500_ms = {"decode_us": 16_000, "prefill_us_per_row": 500}

    assert await chosen(looking(KNOWS, max_tokens=32, **saves_500_ms)) == peer_of(1)
    assert await chosen(looking(KNOWS, max_tokens=320, **saves_500_ms)) == peer_of(2)


async def test_a_familiar_chain_that_failed_or_serves_other_blocks_now_is_not_taken():
    lost: dict[str, ManyhandsError] = {peer_of(1): PeerBusy(peer_of(1), "full")}
    other_span = Familiar((Seat(peer_of(1), Span(0, 4)), Seat(peer_of(2), Span(4, 8))), 1000)

    assert await chosen(looking(KNOWS), lost) == peer_of(2)
    assert await chosen(looking(other_span, decode_us=80_000)) == peer_of(2)
