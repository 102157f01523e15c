"""What a hop commits to of rows that were run, taken back and run again."""

import asyncio
import secrets

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from node.fingerprints import Fingerprints
from protocol.fingerprint import sketch
from protocol.journal import Journal
from protocol.signing import Envelope
from protocol.windows import WINDOW
from protocol.wire import BFLOAT16, FLOAT32, INT8_64, WireFormat, decode, encode

HIDDEN, CAPACITY, SALT = 24, 300, bytes(32)
STATEMENT = Envelope("mh/statement/1", b"", ((bytes(32), bytes(64)),))
Step = tuple[str, int]

steps = st.lists(
    st.tuples(
        st.sampled_from(["run", "run", "run", "back", "epoch", "state", "rest"]),
        st.integers(1, 100),
    ),
    max_size=20,
)


def rows_of(wire: WireFormat, n_rows: int) -> bytes:
    seed = int.from_bytes(secrets.token_bytes(4), "big")
    values = np.random.default_rng(seed).normal(size=(n_rows, HIDDEN)).astype(np.float32)
    return encode(wire, values)


async def committed(wire: WireFormat, journal: Journal | None, told: list[Step]) -> None:
    """Do what is told, as a hop does it: it counts rows, then they go into its journal."""
    width = wire.row_bytes(HIDDEN)
    hop = Fingerprints(wire, HIDDEN, CAPACITY, journal=journal)
    hop.begin_epoch(SALT, 0)
    stands = bytearray()
    for what, n in told:
        n_rows = len(stands) // width
        if what == "run" and n_rows < CAPACITY:
            rows = memoryview(rows_of(wire, min(n, CAPACITY - n_rows)))
            hop.took(n_rows, rows)
            if journal is not None:
                journal.append(rows)
            stands += rows
        elif what in ("back", "epoch"):
            del stands[max(0, n_rows - n) * width :]
            if journal is not None:
                journal.cut(len(stands) // width)
            if what == "epoch":
                hop.begin_epoch(SALT, len(stands) // width)
        elif what == "state":
            hop.root()
        elif what == "rest":
            hop.use_rest()
            await asyncio.sleep(0)
    hop.begin_epoch(SALT, len(stands) // width)
    root = hop.root()
    kept = hop.kept("payer", STATEMENT)
    if not stands:
        assert kept is None
        return
    assert kept is not None
    right = sketch(decode(wire, bytes(stands), HIDDEN)).astype("<f4").tobytes()
    assert kept.stated.sketches == right
    assert kept.stated.tree(SALT).root() == root  # of no leaf that was remembered


@given(st.sampled_from([FLOAT32, BFLOAT16, INT8_64]), steps)
@settings(max_examples=60, deadline=None)
def test_a_hop_that_sends_on_commits_to_the_rows_that_stand_in_its_journal(wire, told):
    asyncio.run(committed(wire, Journal(wire.row_bytes(HIDDEN), CAPACITY), told))


@given(st.sampled_from([FLOAT32, BFLOAT16, INT8_64]), steps)
@settings(max_examples=60, deadline=None)
def test_a_last_hop_commits_to_the_rows_that_stand_too(wire, told):
    asyncio.run(committed(wire, None, told))


def test_rows_wait_until_they_are_a_windows_worth():
    hop = Fingerprints(FLOAT32, HIDDEN, CAPACITY)
    hop.begin_epoch(SALT, 0)

    hop.took(0, rows_of(FLOAT32, WINDOW - 1))
    assert not hop.is_worth_while
    hop.took(WINDOW - 1, rows_of(FLOAT32, 1))

    assert hop.is_worth_while
    assert not hop.work()
    assert not hop.is_worth_while
