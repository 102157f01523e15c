"""What `nvidia-smi` prints, in the forms it is known to have."""

import pytest

from manyhands.gpu import GpuNow, parse


def test_cards_are_told_apart_and_units_are_base_units():
    table = "0, 37, 1234, 41, 68.51\n1, 0, 0, 30, 55\n"

    assert list(parse(table)) == [
        GpuNow(index=0, busy=0.37, used_bytes=1234 * 2**20, celsius=41, watts=68.51),
        GpuNow(index=1, busy=0, used_bytes=0, celsius=30, watts=55),
    ]


def test_what_a_card_does_not_say_is_left_out():
    (gpu,) = parse("0, [N/A], 12, [Not Supported], [Unknown Error]")

    assert gpu == GpuNow(index=0, used_bytes=12 * 2**20)


@pytest.mark.parametrize("table", ["", "\n", "No devices were found", "x, 1, 2, 3, 4", "0, 1"])
def test_other_words_are_no_cards(table: str):
    assert list(parse(table)) == []
