"""What a statement commits to of fingerprints, and what can be shown of it afterwards."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import BadObject
from ledger.fingerprints import MAX_OPENED, Opening, OpeningRequest, WindowTree, leaf_of
from ledger.tab import ProviderTab
from protocol.errors import IntegrityError
from protocol.fingerprint import ALGORITHM
from protocol.windows import BUCKETS, Window, windows_of
from tests.ledger.parties import NOW_MS, SWARM, open_tab, ran

SALT = bytes(range(32))


def windows(start: int, stop: int) -> dict[int, bytes]:
    values = np.random.default_rng(start).normal(size=(stop, BUCKETS)).astype("<f4")
    return {a // 32: Window(a, values[a:b].tobytes()).encode() for a, b in windows_of(start, stop)}


def tree_of(start: int, stop: int) -> WindowTree:
    told = windows(start, stop)
    return WindowTree(start, stop, [leaf_of(told[index], SALT) for index in sorted(told)])


def stated(start: int, stop: int) -> tuple[ProviderTab, Opening]:
    """A tab whose statement commits to these positions, all of it opened."""
    _, provider = open_tab()
    tree, told = tree_of(start, stop), windows(start, stop)
    envelope = provider.make_statement(
        ran(9).meter(),
        epoch=0,
        last_step=0,
        in_root=bytes(32),
        out_root=bytes(32),
        fp_root=tree.root(),
        now_ms=NOW_MS,
    )
    shown = {index: (told[index], tuple(tree.path(index))) for index in sorted(told)[:MAX_OPENED]}
    return provider, Opening(envelope, start, stop, tree.merkle_root(), shown)


def check(provider: ProviderTab, opening: Opening):
    return opening.check(provider.terms, provider.terms_oid, SALT, SWARM)


@settings(max_examples=30)
@given(st.integers(0, 100), st.integers(1, 400))
def test_every_window_is_proven_by_the_statement(start, n):
    provider, opening = stated(start, start + n)

    statement, shown = check(provider, Opening.decode(opening.encode()))

    assert statement == provider.statement
    assert {i: w.encode() for i, w in shown.items()} == {
        i: d for i, (d, _) in opening.shown.items()
    }


def forgeries(opening: Opening) -> dict[str, Opening]:
    (first, a), (second, b) = list(opening.shown.items())[:2]
    other = windows(opening.start + 1, opening.stop)[second]
    return {
        "another window": replace(opening, shown={second: (other, b[1])}),
        "another place": replace(opening, shown={first: b}),
        "no such window": replace(opening, shown={999: a}),
        "fewer positions": replace(opening, stop=opening.stop - 1),
        "more positions": replace(opening, start=opening.start - 1),
        "another root": replace(opening, root=bytes(32)),
        "a longer path": replace(opening, shown={first: (a[0], (*a[1], bytes(32)))}),
        "no path": replace(opening, shown={first: (a[0], ())}),
    }


def test_what_was_not_committed_to_cannot_be_shown():
    provider, opening = stated(5, 200)

    for forged in forgeries(opening).values():
        with pytest.raises(IntegrityError):
            check(provider, forged)
    with pytest.raises(IntegrityError):
        opening.check(provider.terms, provider.terms_oid, bytes(32), SWARM)


def test_a_root_is_about_its_positions():
    assert tree_of(0, 64).root() != tree_of(0, 63).root()
    assert tree_of(32, 64).merkle_root() == tree_of(32, 64).merkle_root()


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x83\x01\x40\x80", bytes(100)])
def test_what_is_no_opening_and_no_question_is_refused(data):
    with pytest.raises(IntegrityError):
        Opening.decode(data)
    with pytest.raises(IntegrityError):
        OpeningRequest.decode(data)


def test_a_question_names_few_windows_once():
    asked = OpeningRequest(bytes(32), (3, 1))

    assert OpeningRequest.decode(asked.encode()) == asked
    for windows_asked in ((), (1, 1), tuple(range(MAX_OPENED + 1))):
        with pytest.raises(IntegrityError):
            OpeningRequest(bytes(32), windows_asked)


def test_whoever_agreed_on_fingerprints_commits_to_them_in_each_statement():
    payer, provider = open_tab(fp_profile=ALGORITHM)
    said = {"epoch": 0, "last_step": 0, "in_root": bytes(32), "out_root": bytes(32)}

    assert payer.terms.fp_profile == ALGORITHM
    with pytest.raises(BadObject, match="fingerprints"):
        payer.check_statement(
            provider.make_statement(ran(9).meter(), **said, now_ms=NOW_MS), now_ms=NOW_MS
        )
    assert payer.check_statement(
        provider.make_statement(ran(9).meter(), **said, fp_root=bytes(32), now_ms=NOW_MS),
        now_ms=NOW_MS,
    )
