"""A hop's word for what it bills is taken once, and only for what both can see."""

from dataclasses import replace

import pytest

from protocol.errors import PeerMisbehaved
from protocol.identity import Identity, peer_id_from_public_key
from protocol.messages import Reserve, Reserved, SessionId, Span
from scheduler.client_tab import MOST_ROW_BYTES, ClientTab
from tests.ledger.parties import CLIENT, MANIFEST, PROVIDER, SWARM

HIDDEN, PROFILE = 64, "float32/none/bfloat16"
PEER = peer_id_from_public_key(PROVIDER.public_key)


def tab(hidden_size: int = HIDDEN) -> ClientTab:
    reserve = Reserve(
        session=SessionId(b"s" * 16),
        epoch=0,
        manifest=MANIFEST,
        span=Span(4, 8),
        n_blocks=12,
        capacity=1000,
        max_tokens=900,
        budget_ms=60_000,
        client_nonce=b"c" * 16,
        salt_commit=b"x" * 32,
    )
    return ClientTab(reserve, PEER, Identity(CLIENT), SWARM, hidden_size=hidden_size)


def reserved(row_bytes: int, profile: str = PROFILE) -> Reserved:
    return Reserved(epoch=0, terms=b"terms", offer=b"offer", row_bytes=row_bytes, profile=profile)


def test_rows_are_as_wide_as_they_travel_whatever_a_hop_says():
    tab().proposed(reserved(2 * HIDDEN))

    for row_bytes in (0, 2 * HIDDEN - 1, 4 * HIDDEN, 2**32 - 1):
        with pytest.raises(PeerMisbehaved, match="rows of"):
            tab().proposed(reserved(row_bytes))
    with pytest.raises(PeerMisbehaved, match="rows of"):
        tab().proposed(reserved(2 * HIDDEN, "float32/none/rot13"))


def test_rows_of_a_width_that_is_not_known_here_have_an_end():
    tab(hidden_size=0).proposed(reserved(MOST_ROW_BYTES))

    with pytest.raises(PeerMisbehaved, match="rows of"):
        tab(hidden_size=0).proposed(reserved(MOST_ROW_BYTES + 1))


def test_what_was_reserved_is_not_taken_back():
    opened = tab()
    opened.proposed(reserved(2 * HIDDEN))

    opened.proposed(reserved(2 * HIDDEN))
    with pytest.raises(PeerMisbehaved, match="takes back"):
        opened.proposed(replace(reserved(2 * HIDDEN), offer=b"another"))
