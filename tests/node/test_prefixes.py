"""Rows with names: found by who knows the name, kept while nobody needs the room."""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from node.batching import Batcher
from node.engine import Lease
from node.engine.kv_layout import BlockLayout, KVLayout
from node.engine.slabs import SlabLease
from node.prefixes import (
    COPY_IDLE_S,
    IDLE_S,
    MAX_COPIES_OF_CLIENT,
    MAX_RETAINED,
    Found,
    Prefixes,
    Rows,
    copy_rows,
)
from protocol.asking import Extensions, PrefixNames
from protocol.hop_session import HopSession
from protocol.journal import Journal
from protocol.messages import Reserve, SessionId, Span

ROW_BYTES = 8
RESERVE = Reserve(
    session=SessionId(bytes(16)),
    epoch=0,
    manifest=b"m" * 32,
    span=Span(0, 4),
    n_blocks=8,
    capacity=1000,
    max_tokens=100,
    budget_ms=60_000,
    client_nonce=b"n" * 16,
    salt_commit=b"s" * 32,
)


@dataclass
class FakeLease:
    floor: int = 0


@dataclass
class FakeSession:
    length: int = 0


def names(text: str, *positions: int, shared: bool = False) -> PrefixNames:
    """As a client would name the beginnings of this text."""
    digests = [hashlib.blake2b(text[:at].encode(), digest_size=16).digest() for at in positions]
    return PrefixNames(positions=positions, digests=b"".join(digests), shared=shared)


def begun(
    prefixes: Prefixes, text: str, *positions: int, client: str = "alice", length: int = 0
) -> Rows:
    """A live session that has run `length` rows."""
    session = cast("HopSession", FakeSession(length))
    lease = cast("Lease", FakeLease())
    reserve = replace(RESERVE, session=SessionId(secrets.token_bytes(16)))
    rows = Rows(client, reserve, lease, Journal(ROW_BYTES, 0), session)
    prefixes.name(rows, names(text, *positions))
    return rows


def found(
    prefixes: Prefixes, text: str, *positions: int, client: str = "alice", **what: Any
) -> int:
    """How many rows a session that asks for these prefixes would begin with."""
    reserve = replace(RESERVE, prefixes=names(text, *positions), **what)
    hit = prefixes.find(reserve, client, ROW_BYTES)
    return hit.length if hit else 0


def test_the_longest_prefix_that_was_run_is_found():
    prefixes = Prefixes()
    begun(prefixes, "abcdefgh", 2, 4, 6, length=5)

    assert found(prefixes, "abcdefgh", 2, 4, 6) == 4, "six rows have a name, and five were run"
    assert found(prefixes, "abcdzzzz", 2, 4, 6) == 4
    assert found(prefixes, "abzzzzzz", 2, 4, 6) == 2
    assert found(prefixes, "zzzzzzzz", 2, 4, 6) == 0
    assert found(prefixes, "abcdefgh", 3, 5) == 0, "only what has a name"


def test_another_client_span_adapter_or_mode_is_another_name():
    prefixes = Prefixes()
    begun(prefixes, "abcdefgh", 4, length=8)

    assert found(prefixes, "abcdefgh", 4) == 4
    assert found(prefixes, "abcdefgh", 4, client="bob") == 0
    assert found(prefixes, "abcdefgh", 4, span=Span(0, 3)) == 0
    assert found(prefixes, "abcdefgh", 4, extensions=Extensions(adapter="tone")) == 0
    assert found(prefixes, "abcdefgh", 4, client_ends=True) == 0
    assert prefixes.find(replace(RESERVE, prefixes=names("abcdefgh", 4)), "alice", 2) is None


def test_a_shared_name_is_for_all_who_know_it_and_say_so():
    prefixes = Prefixes()
    rows = begun(prefixes, "abcd", 4, length=4)
    prefixes.name(rows, names("abcd", 4, shared=True))
    asks = replace(RESERVE, prefixes=names("abcd", 4, shared=True))

    assert prefixes.find(asks, "bob", ROW_BYTES) is not None
    assert found(prefixes, "abcd", 4, client="bob") == 0
    assert found(prefixes, "abcd", 4, client="alice") == 0, "a private name is another one"


def test_rows_that_forgot_their_beginning_serve_only_what_they_still_can():
    prefixes = Prefixes()
    rows = begun(prefixes, "abcdefgh", 2, 4, 6, length=8)
    cast("FakeLease", rows.lease).floor = 5

    assert found(prefixes, "abcdefgh", 2, 4) == 0
    assert found(prefixes, "abcdefgh", 2, 4, 6) == 6


def test_a_client_that_went_back_has_no_names_for_what_comes_next():
    prefixes = Prefixes()
    rows = begun(prefixes, "abcdefgh", 2, 4, 6, length=8)
    cast("FakeSession", rows.session).length = 3

    prefixes.cut(rows)
    cast("FakeSession", rows.session).length = 8

    assert found(prefixes, "abcdefgh", 2, 4, 6) == 2


def test_what_is_over_and_was_not_to_be_kept_is_forgotten():
    prefixes = Prefixes()
    prefixes.drop(begun(prefixes, "abcd", 2, 4, length=4))

    assert found(prefixes, "abcd", 2, 4) == 0
    assert not prefixes._named


def test_a_session_without_a_name_for_what_it_ran_leaves_nothing():
    prefixes = Prefixes()

    assert not prefixes.retain(begun(prefixes, "abcdefgh", 6, length=4), 10, 100)
    assert not prefixes.retain(begun(prefixes, "abcdefgh", 4, length=4), 101, 100)
    assert prefixes.retained_bytes == prefixes.n_retained == 0
    assert not prefixes._named


def test_the_longest_unused_gives_way_first():
    prefixes = Prefixes()
    for text in ("aaaa", "bbbb", "cccc"):
        assert prefixes.retain(begun(prefixes, text, 4, length=4), 10, 30)
    assert found(prefixes, "aaaa", 4) == 4  # used just now

    prefixes.give_way(10, 30)

    assert [found(prefixes, text, 4) for text in ("aaaa", "bbbb", "cccc")] == [4, 0, 4]
    assert prefixes.retained_bytes == 20


def test_a_longer_history_replaces_the_one_that_it_continues_and_no_other():
    prefixes = Prefixes()
    prefixes.retain(begun(prefixes, "sys hello", 4, 9, length=9), 10, 100)
    prefixes.retain(begun(prefixes, "sys other", 4, 9, length=9), 10, 100)
    prefixes.retain(begun(prefixes, "sys hello world", 4, 9, 15, length=15), 15, 100)

    assert prefixes.n_retained == 2
    assert prefixes.retained_bytes == 25
    assert found(prefixes, "sys hello", 4, 9) == 9
    assert found(prefixes, "sys other", 4, 9) == 9


def test_what_nobody_asks_for_is_forgotten_after_a_while_and_there_is_a_limit():
    now = [0.0]
    prefixes = Prefixes(lambda: now[0])
    for index in range(MAX_RETAINED + 5):
        prefixes.retain(begun(prefixes, f"{index:04d}", 4, length=4), 1, 10_000)
    assert prefixes.n_retained == MAX_RETAINED

    now[0] = IDLE_S / 2
    assert found(prefixes, "0100", 4) == 4
    now[0] = IDLE_S
    prefixes.expire()

    assert prefixes.n_retained == prefixes.retained_bytes == 1
    assert found(prefixes, "0100", 4) == 4


def test_one_digest_for_two_positions_confuses_nobody():
    prefixes = Prefixes()
    rows = begun(prefixes, "", length=9)
    prefixes.name(rows, PrefixNames(positions=(3, 6), digests=bytes(32)))
    asks = replace(RESERVE, prefixes=PrefixNames(positions=(3, 5, 6), digests=bytes(48)))

    hit = prefixes.find(asks, "alice", ROW_BYTES)
    prefixes.drop(rows)

    assert hit is not None
    assert hit.length == 6
    assert not prefixes._named


class Direct:
    """A batcher with nothing else to do; before each call, `first` happens."""

    def __init__(self, first: Callable[[int], None] = lambda call: None) -> None:
        self.first, self.calls = first, 0

    def between_steps(self, call: Callable[[], None]) -> "asyncio.Future[None]":
        self.calls += 1
        self.first(self.calls)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            done.set_result(call())
        except ValueError as error:
            done.set_exception(error)
        return done


class Stuck:
    """A batcher whose step does not end."""

    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []

    def between_steps(self, call: Callable[[], None]) -> "asyncio.Future[None]":
        self.later.append(call)
        return asyncio.get_running_loop().create_future()


def filled(capacity: int, length: int) -> tuple[Rows, Prefixes]:
    """A live session's rows, of two blocks, and who knows their names."""
    prefixes, session = Prefixes(), cast("HopSession", FakeSession(length))
    lease = slabs(capacity)
    for slab in lease.slabs:
        slab.keys.normal_()
        slab.values.normal_()
    lease.length = length
    journal = Journal(ROW_BYTES, capacity)
    journal.append(secrets.token_bytes(ROW_BYTES * length))
    rows = Rows("alice", RESERVE, lease, journal, session)
    prefixes.name(rows, names("a" * length, 100, length))
    return rows, prefixes


def slabs(capacity: int) -> SlabLease:
    block = BlockLayout(2, 4, 2, 4, None, torch.device("cpu"))
    layout = KVLayout((block, block), torch.float32, latent=False)
    return SlabLease(layout, entry=0, exit=2, capacity=capacity)


async def test_rows_are_copied_piece_by_piece_between_steps():
    source, _ = filled(300, 250)
    lease, journal, batcher = slabs(210), Journal(ROW_BYTES, 210), Direct()

    await copy_rows(source, 200, lease, journal, cast("Batcher", batcher), piece_bytes=1)

    assert batcher.calls == 4
    assert lease.length == journal.length == 200
    assert journal.rows(0, 200) == source.journal.rows(0, 200)
    for copied, kept in zip(
        lease.export().tensors, source.lease.export(0, 200).tensors, strict=True
    ):
        assert torch.equal(copied, kept)


async def test_where_steps_take_long_the_rest_is_copied_at_once():
    source, _ = filled(300, 250)
    lease, journal, batcher = slabs(210), Journal(ROW_BYTES, 210), Direct()

    await copy_rows(
        source, 200, lease, journal, cast("Batcher", batcher), piece_bytes=1, patience_s=0.0
    )

    assert batcher.calls == 1
    assert lease.length == journal.length == 200


async def test_a_copy_of_rows_that_are_replaced_meanwhile_is_given_up():
    source, prefixes = filled(300, 250)

    def go_back(call: int) -> None:
        cast("FakeSession", source.session).length = 50
        prefixes.cut(source)

    lease, journal = slabs(210), Journal(ROW_BYTES, 210)
    batcher = cast("Batcher", Direct(go_back))

    with pytest.raises(ValueError, match="went back"):
        await copy_rows(source, 100, lease, journal, batcher, piece_bytes=1)


async def test_what_cannot_be_copied_is_run_instead():
    source, _ = filled(300, 250)
    too_small, journal = slabs(20), Journal(ROW_BYTES, 210)

    began = await Found(source, 250).copied_to(too_small, journal, cast("Batcher", Direct()))

    assert began == journal.length == 0


async def test_nobody_waits_long_for_a_copy_and_one_that_comes_late_touches_nothing():
    source, _ = filled(300, 250)
    lease, journal, stuck = slabs(210), Journal(ROW_BYTES, 210), Stuck()

    began = await Found(source, 200).copied_to(lease, journal, cast("Batcher", stuck))
    stuck.later[0]()

    assert began == lease.length == journal.length == 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_comes_and_goes_every_name_leads_to_rows_that_are_there(data):
    now, room = [0.0], 50
    prefixes = Prefixes(lambda: now[0])
    live: list[Rows] = []
    for _ in range(data.draw(st.integers(1, 30))):
        now[0] += data.draw(st.sampled_from([0.0, IDLE_S / 3]))
        act = data.draw(st.sampled_from(["begin", "keep", "drop", "need", "expire"]))
        if act == "begin":
            text = data.draw(st.text("ab", min_size=8, max_size=8))
            length = data.draw(st.integers(0, 8))
            live.append(begun(prefixes, text, 2, 4, 6, 8, length=length))
        elif act == "keep" and live:
            prefixes.retain(live.pop(), data.draw(st.integers(1, 60)), room)
        elif act == "drop" and live:
            prefixes.drop(live.pop(0))
        elif act == "need":
            prefixes.give_way(data.draw(st.integers(0, room)), room)
        elif act == "expire":
            prefixes.expire()

        assert prefixes.retained_bytes == sum(rows.n_bytes for rows in prefixes._retained) <= room
        for name, holders in prefixes._named.items():
            assert holders
            assert all(rows in live or rows in prefixes._retained for rows in holders)
            assert all(name in rows.names.values() for rows in holders)


def copied(prefixes: Prefixes, text: str, n_bytes: int = 10, client: str = "alice") -> Rows:
    """A copy of what another node runs, all of whose rows have arrived."""
    reserve = replace(RESERVE, session=SessionId(secrets.token_bytes(16)))
    lease = cast("Lease", FakeLease())
    rows = Rows(client, reserve, lease, Journal(ROW_BYTES, 0), None)
    prefixes.add_copy(rows, n_bytes)
    prefixes.name(rows, names(text, len(text)))
    assert prefixes.copied(rows, len(text))
    return rows


def test_a_copy_is_found_as_far_as_it_has_come():
    prefixes = Prefixes()
    rows = copied(prefixes, "abcd")
    prefixes.name(rows, names("abcdefgh", 4, 8))

    assert found(prefixes, "abcdefgh", 4, 8) == 4
    assert prefixes.copied(rows, 8)
    assert found(prefixes, "abcdefgh", 4, 8) == 8


def test_copies_go_before_what_sessions_left_and_take_nobodys_room():
    prefixes = Prefixes()
    assert prefixes.retain(begun(prefixes, "kept", 4, length=4), 10, 30)
    rows = copied(prefixes, "copy")

    assert not prefixes.may_copy("alice", 11, 30), "there is room for ten more"
    prefixes.give_way(20, 30)

    assert [found(prefixes, text, 4) for text in ("kept", "copy")] == [4, 0]
    assert prefixes.retained_bytes == 10
    assert not prefixes.copied(rows, 8), "whoever fills it hears that it was dropped"


def test_one_clients_copies_leave_room_for_those_of_others():
    prefixes = Prefixes()
    copied(prefixes, "alices", 40)

    assert not prefixes.may_copy("alice", 11, 100)
    assert prefixes.may_copy("bob", 11, 100)
    for index in range(MAX_COPIES_OF_CLIENT):
        copied(prefixes, f"{index:04d}", 0, client="bob")
    assert not prefixes.may_copy("bob", 1, 100)


def test_a_copy_that_nobody_asks_for_again_is_forgotten_soon():
    now = [0.0]
    prefixes = Prefixes(lambda: now[0])
    rows = copied(prefixes, "abcd")
    now[0] = COPY_IDLE_S - 1
    assert prefixes.copied(rows, 4)
    now[0] = COPY_IDLE_S + 1
    prefixes.expire()
    assert prefixes.copies("alice", rows.reserve.session) == [rows]

    now[0] = 2 * COPY_IDLE_S
    prefixes.expire()

    assert prefixes.n_copies == prefixes.retained_bytes == 0
