"""What a session's slabs take is given back the moment it ends, whatever came and went between."""

import random
import sys
from pathlib import Path

import pytest
import torch

from node.engine.kv_layout import BlockLayout, KVLayout
from node.engine.slabs import SlabLease

BLOCK = BlockLayout(4, 64, 4, 64, None, torch.device("cpu"))
LAYOUT = KVLayout((BLOCK,) * 12, torch.float32, latent=False)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_slabs_of_all_sizes_leave_no_memory_behind() -> None:
    """Allocators like to keep what was freed, and what lies between pieces in use."""
    chance = random.Random(3)
    kept: list[SlabLease] = []
    before = resident_bytes()
    opened_bytes = 0

    for _ in range(60):
        lease = SlabLease(LAYOUT, entry=0, exit=12, capacity=chance.randint(8, 600))
        for slab in lease.slabs:
            slab.keys.zero_()
            slab.values.zero_()
        opened_bytes += lease.n_bytes
        kept.append(lease)
        if len(kept) > 6:
            kept.pop(chance.randrange(len(kept))).close()
    for lease in kept:
        lease.close()

    assert opened_bytes > 300e6
    assert resident_bytes() - before < 16e6
