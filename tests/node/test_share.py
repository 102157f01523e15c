"""How much of a memory a node may take: what an owner writes, and what plans make of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manyhands.manners import RateType, share_of
from manyhands.models import BUILT_IN
from node.engine import load_shard, plan_shard
from node.engine.room import free_bytes, hold_to
from node.share import Share
from protocol.errors import OutOfMemory
from protocol.messages import Span

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "total", "n_bytes"),
    [
        ("80%", 10 * GIB, 8 * GIB),
        ("12GiB", 100 * GIB, 12 * GIB),
        ("12g", 8 * GIB, 8 * GIB),
        ("0.5 %", 1000, 5),
        ("512MB", GIB, GIB // 2),
    ],
)
def test_a_share_is_bytes_or_a_part(text, total, n_bytes):
    assert Share.parse(text).of(total) == n_bytes


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-1GiB", "much", "1.2.3%"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ValueError, match=r"share|size"):
        Share.parse(text)


@given(part=st.integers(1, 100), total=st.integers(1, 2**50))
def test_a_share_is_never_more_than_all(part, total):
    assert 0 <= Share.parse(f"{part}%").of(total) <= total


def test_a_plan_keeps_to_the_share_and_says_what_would_fit():
    whole = plan_shard(BUILT_IN, None, share=Share.parse("99%"))
    none = plan_shard(BUILT_IN, None, share=Share.parse("1MiB"))

    assert whole.fits
    assert (none.fits, none.n_blocks_that_fit, none.room_bytes) == (False, 0, 0)
    with pytest.raises(OutOfMemory, match="0 MiB free"):
        load_shard(BUILT_IN, Span(0, 4), share=Share.parse("1MiB"))


def test_what_is_free_is_never_more_than_the_share_leaves():
    free = free_bytes("cpu")
    left = free_bytes("cpu", Share.parse("1GiB"))

    assert left is not None
    assert left < GIB  # torch is here already
    assert free is None or left <= free


def test_gpus_go_by_their_own_memory_and_the_rest_by_the_machines():
    vram, memory = Share.parse("80%"), Share.parse("8GiB")

    assert share_of("cuda:0,cuda:1", max_vram=vram, max_memory=memory) is vram
    assert share_of("cpu", max_vram=vram, max_memory=memory) is memory
    assert share_of("mps", max_vram=vram, max_memory=None) is None
    hold_to("cpu", memory)  # nothing that torch could hold


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_refuses_what_goes_beyond_the_share():
    total = torch.cuda.mem_get_info(0)[1]
    share = Share(n_bytes=GIB)

    assert free_bytes("cuda:0", share) <= GIB
    hold_to("cuda:0", share)
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.empty(2 * GIB, dtype=torch.uint8, device="cuda:0")
    finally:
        hold_to("cuda:0", Share(n_bytes=total))


@pytest.mark.parametrize(
    ("text", "rate"),
    [("2MB/s", 2 * 2**20), ("20Mbit", 2_500_000), ("500KiB", 500 * 1024), ("1gbit/s", 125_000_000)],
)
def test_a_rate_is_bytes_or_bits_per_second(text, rate):
    assert RateType().convert(text, None, None) == rate
