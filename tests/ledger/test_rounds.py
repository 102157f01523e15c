"""Auditors are audited: who copies, or guesses, is found out by windows that are known."""

import random

import pytest

from ledger.rounds import Round, grades
from ledger.verdicts import MATCH, MISMATCH, Verdict, commitment
from protocol.errors import IntegrityError
from tests.ledger.parties import CLIENT, MANIFEST, PROVIDER, STRANGER, SWARM


def verdict(key, *, is_good, nonce):
    return Verdict(
        session_id=bytes(16),
        window_no=0,
        fp_leaf=MANIFEST,
        result=MATCH if is_good else MISMATCH,
        stats=(2_000 if is_good else 310_000,),
        exec_profile="float32/none/float32",
        job_nonce=nonce,
    ).seal(SWARM, key)


def begun(*auditors):
    return Round([key.public_key for key in auditors], SWARM)


def commit(round_, key, found):
    round_.commit(key.public_key, commitment(key.public_key, found, SWARM))


def test_48_a_lazy_auditor_that_copies_is_caught_by_seeded_windows():
    """It repeats another's commitment, cannot open it, and otherwise says what is likeliest."""
    luck, known = random.Random(48), {}
    for n in range(20):
        is_good = n % 4 != 3  # one of four was made wrong on purpose
        round_ = begun(CLIENT, STRANGER, PROVIDER)
        worked = verdict(CLIENT, is_good=is_good, nonce=luck.randbytes(16))
        guessed = verdict(PROVIDER, is_good=True, nonce=luck.randbytes(16))
        commit(round_, CLIENT, worked)
        round_.commit(STRANGER.public_key, commitment(CLIENT.public_key, worked, SWARM))
        commit(round_, PROVIDER, guessed)
        round_.reveal(CLIENT.public_key, worked)
        round_.reveal(PROVIDER.public_key, guessed)
        copied = verdict(STRANGER, is_good=is_good, nonce=bytes(16))
        for shown in (worked, copied):
            with pytest.raises(IntegrityError):
                round_.reveal(STRANGER.public_key, shown)
        known[round_] = is_good

    found = grades(known)

    assert found[CLIENT.public_key].is_trusted is True
    assert found[STRANGER.public_key].is_trusted is False  # never showed anything
    assert found[PROVIDER.public_key].is_trusted is False  # never saw a bad one


def test_48_another_auditors_look_under_ones_own_name_is_refused():
    """The copier signs anew what it was shown, had it known the nonce when it committed."""
    round_ = begun(CLIENT, STRANGER)
    worked = verdict(CLIENT, is_good=False, nonce=b"n" * 16)
    same = verdict(STRANGER, is_good=False, nonce=b"n" * 16)
    commit(round_, CLIENT, worked)
    commit(round_, STRANGER, same)  # even if the nonce had leaked
    round_.reveal(CLIENT.public_key, worked)

    with pytest.raises(IntegrityError, match="another auditor's"):
        round_.reveal(STRANGER.public_key, same)


def test_nothing_is_shown_before_all_have_committed_and_nothing_is_committed_to_later():
    round_ = begun(CLIENT, STRANGER)
    worked = verdict(CLIENT, is_good=True, nonce=b"n" * 16)
    commit(round_, CLIENT, worked)

    with pytest.raises(IntegrityError, match="all have committed"):
        round_.reveal(CLIENT.public_key, worked)
    with pytest.raises(IntegrityError):
        commit(round_, CLIENT, worked)
    round_.close()
    with pytest.raises(IntegrityError):
        commit(round_, STRANGER, worked)
    round_.reveal(CLIENT.public_key, worked)
    assert round_.silent == {STRANGER.public_key}


def test_too_few_known_windows_say_nothing_about_an_auditor():
    round_ = begun(CLIENT)
    worked = verdict(CLIENT, is_good=True, nonce=b"n" * 16)
    commit(round_, CLIENT, worked)
    round_.reveal(CLIENT.public_key, worked)

    assert grades({round_: True})[CLIENT.public_key].is_trusted is None
