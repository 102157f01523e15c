"""Tables for people: what an amount is stands there whole."""

import io

import pytest
from rich.console import Console

from ledger import render
from ledger.lines import peer_name
from ledger.tables import add_numbers, new_table, print_table
from tests.ledger.parties import CLIENT

PEER = peer_name(CLIENT.public_key)


def printed(table, width):
    out = io.StringIO()
    print_table(Console(file=out, width=width), table)
    return out.getvalue()


def tab(**more):
    return {
        "receipt": "9394b07d9303ffff",
        "closed_ms": 1_790_000_000_000,
        "peer": PEER,
        "span": [0, 8],
        "meter": {"prefill_tl": 12_345, "decode_tl": 184_000},
        "amount_ncr": 14_300_000_000,
        "direction": "spent",
        **more,
    }


@pytest.mark.parametrize("width", [20, 60, 80, 200])
@pytest.mark.parametrize("more", [{}, {"state": "settled", "credit_ncr": 1_300_000_000}])
def test_a_statement_tells_amounts_whole_however_narrow_the_terminal(width, more):
    text = printed(render._tabs({"role": "client", "peer": PEER, "tabs": [tab(**more)]}), width)

    assert "−14,300,000,000" in text
    assert "2026-09-21" in text
    assert not more or "1,300,000,000" in text.replace("−14,300,000,000", "")
    assert text.count("…") == 1  # of the short peer


@pytest.mark.parametrize("more", [{}, {"state": "settled"}])
def test_a_statement_of_some_credits_fits_eighty_characters(more):
    text = printed(render._tabs({"role": "client", "peer": PEER, "tabs": [tab(**more)]}), 80)

    assert max(map(len, text.splitlines())) <= 80


def test_the_largest_amounts_there_are_stay_whole_beside_a_peer_that_is_folded():
    table = new_table("node", "peer")
    add_numbers(table, "earned ncr", "spent ncr", "net ncr")
    table.add_row(PEER, *(f"{amount:,}" for amount in (2**63 - 1, 2**62, -(2**63))))

    text = printed(table, 80)

    assert all(f"{amount:,}" in text for amount in (2**63 - 1, 2**62, -(2**63)))
    cells = [line.split("│")[1].strip() for line in text.splitlines() if "│" in line]
    assert "".join(cells) == PEER
