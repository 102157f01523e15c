"""Sums over ranges: equal sets have equal sums, parts make up the whole."""

from hashlib import sha256
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from protocol.key_ranges import N_PARTS, KeyRanges

keys = st.binary(min_size=4, max_size=4)
marked = st.dictionaries(keys, st.binary(min_size=32, max_size=32), max_size=60)


def ranges_of(values: dict[bytes, bytes]) -> KeyRanges:
    ranges = KeyRanges()
    for key, mark in values.items():
        ranges.set(key, mark)
    return ranges


@given(marked, st.randoms(use_true_random=False))
def test_the_order_in_which_keys_came_does_not_matter(values, rng):
    shuffled = list(values.items())
    rng.shuffle(shuffled)

    assert ranges_of(values).describe() == ranges_of(dict(shuffled)).describe()


@given(marked, keys, st.binary(min_size=32, max_size=32))
def test_a_key_that_came_and_went_leaves_no_trace(values, key, mark):
    ranges, before = ranges_of(values), ranges_of(values).describe()
    if key in values:
        return

    ranges.set(key, mark)
    assert ranges.describe() != before or int.from_bytes(mark[:12], "big") == 0
    ranges.remove(key)
    ranges.remove(key)

    assert ranges.describe() == before


@given(marked, keys, keys)
def test_parts_make_up_the_whole(values, start, stop):
    ranges = ranges_of(values)
    for first, last in ((b"", b""), (min(start, stop), max(start, stop))):
        parts = list(ranges.parts(first, last))

        assert len(parts) <= N_PARTS
        assert (parts[0].start, parts[-1].stop) == (first, last)
        assert all(a.stop == b.start for a, b in pairwise(parts))
        assert sum(part.n_keys for part in parts) == len(ranges.keys(first, last))
        for part in parts:
            assert part == ranges.describe(part.start, part.stop)


def test_borders_are_short():
    values = {key: key for key in (sha256(bytes((n,))).digest()[:16] for n in range(200))}

    parts = list(ranges_of(values).parts(b"", b""))

    assert len(parts) == N_PARTS
    assert max(len(part.stop) for part in parts) <= 3
    assert max(part.n_keys for part in parts) == 25
