"""Prompt lookup guesses what followed the last time, and nothing where it has no idea."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.lookup import Lookup

WORDS = [5, 6, 7, 8, 9, 10, 11]


def test_what_followed_the_last_time_is_guessed():
    ids = [1, *WORDS, 20, 21, 22, 2, *WORDS, 30, 31, 3, *WORDS]

    assert Lookup().guess(ids, 3) == [30, 31, 3]


def test_nothing_is_guessed_where_these_ids_never_stood_before():
    lookup = Lookup()

    assert lookup.guess(range(100), 8) == ()
    assert lookup.guess([*range(100), *WORDS[1:4]], 8) == ()
    assert lookup.guess([1, 2], 8) == ()


def test_a_text_that_goes_round_in_a_circle_is_guessed_as_far_as_asked_for():
    assert Lookup().guess([1, 2, 3] * 5, 7) == [1, 2, 3, 1, 2, 3, 1]


class Counted(list[int]):
    """Counts how often ids of it are looked at."""

    looks = 0

    def __getitem__(self, key):
        self.looks += 1
        return super().__getitem__(key)


def test_a_long_prompt_is_read_little_by_little_and_known_in_the_end():
    ids, lookup = Counted([*WORDS, 30, *range(100, 20_100), *WORDS]), Lookup()
    at_once, guesses = [], []
    for _ in range(8):
        before = ids.looks
        guesses.append(list(lookup.guess(ids, 2)))
        at_once.append(ids.looks - before)

    assert max(at_once) < 2 * 4096
    assert sum(at_once) >= 20_000
    assert guesses == [[30, 100]] * 8


@given(ids=st.lists(st.integers(0, 2), max_size=60), steps=st.integers(1, 9))
def test_how_the_ids_came_changes_no_guess(ids, steps):
    slowly = Lookup(3)
    for stop in range(0, len(ids), steps):
        slowly.guess(ids[:stop], 4)

    assert list(slowly.guess(ids, 4)) == list(Lookup(3).guess(ids, 4))
