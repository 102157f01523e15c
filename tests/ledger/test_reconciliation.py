"""Two sets become one: nothing is lost, in few rounds and bytes, whatever the other side says."""

from hashlib import sha256
from math import ceil, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import reconciliation
from ledger.errors import BadObject
from ledger.reconciliation import Answerer, Asker, IdSet, key_of
from protocol.canonical import MAX_BYTES, MAX_UINT, encode
from protocol.errors import IntegrityError


def ids(numbers, epochs=3):
    """Objects by numbers, some to an epoch."""
    return {(n % epochs, sha256(b"%d" % n).digest()) for n in numbers}


def compare(ours, theirs, most=10_000):
    """The asker once it is over, and how many bytes went either way."""
    asker, answerer, n_bytes = Asker(IdSet(ours), most), Answerer(IdSet(theirs)), 0
    while not asker.is_over:
        message = asker.message()
        answer = answerer.answer(message)
        asker.take(answer)
        n_bytes += len(message) + len(answer)
        assert max(len(message), len(answer)) <= MAX_BYTES
    return asker, n_bytes


numbers = st.sets(st.integers(0, 400), max_size=300)


@settings(deadline=None, max_examples=60)
@given(numbers, numbers, st.integers(1, 5))
def test_20_both_end_with_one_set_in_few_rounds_and_no_object_is_lost(some, others, epochs):
    ours, theirs = ids(some, epochs), ids(others, epochs)

    asker, _ = compare(ours, theirs)

    assert ours | asker.lacking == theirs | asker.unknown == ours | theirs
    assert (asker.lacking, asker.unknown) == (theirs - ours, ours - theirs)
    n = max(2, len(ours | theirs))
    assert 2 * asker.n_rounds <= 2 * ceil((ceil(log(n, 16)) + 2) / 2)


@pytest.mark.parametrize(("n_ours", "n_theirs"), [(0, 9_000), (9_000, 0), (3_000, 6_000)])
def test_20_sets_with_little_in_common_take_many_bounded_messages_and_end_alike(n_ours, n_theirs):
    ours, theirs = ids(range(n_ours)), ids(range(10_000, 10_000 + n_theirs))

    asker, _ = compare(ours, theirs)

    assert (asker.lacking, asker.unknown) == (theirs, ours)


def test_equal_sets_cost_one_round_and_little():
    asker, n_bytes = compare(ids(range(5_000)), ids(range(5_000)))

    assert (asker.n_rounds, asker.lacking, asker.unknown) == (1, set(), set())
    assert n_bytes < 1_000


def test_a_few_differences_among_many_cost_what_differences_cost():
    both = ids(range(20_000), epochs=50)
    ours, theirs = both | ids(range(30_000, 30_005)), both | ids(range(40_000, 40_005))

    asker, n_bytes = compare(ours, theirs)

    assert (asker.lacking, asker.unknown) == (theirs - ours, ours - theirs)
    assert (asker.n_rounds <= 3, n_bytes < 20_000) == (True, True)


def test_one_go_finds_so_much_and_the_next_goes_on():
    ours, theirs, n_goes = set(), ids(range(500)), 0

    while ours != theirs:
        asker, _ = compare(ours, theirs, most=200)
        assert len(asker.lacking) <= 200
        ours |= asker.lacking
        n_goes += 1

    assert n_goes == 3


def test_what_is_told_one_by_one_is_told_in_the_order_of_epochs():
    early, late = (1, b"\xff" * 32), (2, bytes(32))

    assert IdSet([late, early, late]).keys == [key_of(*early), key_of(*late)]
    for epoch, oid in ((-1, bytes(32)), (MAX_UINT + 1, bytes(32)), (1, b"short")):
        with pytest.raises(BadObject):
            key_of(epoch, oid)


A, B = key_of(1, b"a" * 32), key_of(1, b"b" * 32)
BAD = {
    "not canonical": b"junk",
    "no ranges": encode((1, ())),
    "another version": encode((2, ((b"\xff",),))),
    "true for one": encode((True, ((b"\xff",),))),
    "not in order": encode((1, ((b"b",), (b"a",)))),
    "beyond all keys": encode((1, ((b"\xff\x00",),))),
    "an endless bound": encode((1, ((bytes(41),),))),
    "a short sum": encode((1, ((b"\xff", 1, b"short"),))),
    "half a key": encode((1, ((b"\xff", 2, A[:20]),))),
    "keys out of order": encode((1, ((b"\xff", 2, B + A),))),
    "keys outside": encode((1, ((b"\x00", 2, A),))),
    "an unknown kind": encode((1, ((b"\xff", 4, b""),))),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_message_is_refused_by_either_side(name):
    asker = Asker(IdSet(ids(range(3))))
    asker.message()

    with pytest.raises(IntegrityError):
        Answerer(IdSet([])).answer(BAD[name])
    with pytest.raises(IntegrityError):
        asker.take(BAD[name])


def test_who_is_asked_takes_no_differences():
    with pytest.raises(BadObject, match="who asks"):
        Answerer(IdSet([])).answer(encode((1, ((b"\xff", 3, b"", b""),))))


def test_an_answer_that_goes_nowhere_or_on_for_ever_ends_the_asking(monkeypatch):
    asker = Asker(IdSet(ids(range(100))))
    first = asker._open[0].upper
    asker.message()
    asker._asked = asker._asked[1:]
    with pytest.raises(BadObject, match="nowhere"):
        asker.take(encode((1, ((first,),))))

    endless = Asker(IdSet(ids(range(100))))
    for n in range(reconciliation.MAX_ROUNDS):
        endless.message()
        endless.take(encode((1, ((b"\xff", 1, n.to_bytes(16, "big")),))))
    endless.message()
    with pytest.raises(BadObject, match="rounds"):
        endless.take(encode((1, ((b"\xff",),))))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.binary(max_size=41), st.integers(0, 4), st.binary(max_size=90))))
def test_whatever_is_asked_the_answer_is_bounded_or_a_refusal(ranges):
    try:
        answer = Answerer(IdSet(ids(range(200)))).answer(encode((1, ranges)))
    except IntegrityError:
        return
    assert len(answer) <= MAX_BYTES
