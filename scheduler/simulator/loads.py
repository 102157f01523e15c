"""What a session in each of its phases asks of nodes and links.

In: a session with its seats. Out: a `Load` per row, and the seconds that opening a chain takes
before the first row runs.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from scheduler.simulator.policies import Seat
from scheduler.simulator.state import Session, Settings
from scheduler.simulator.stations import MENDING_SLOWDOWN, Load, part_key
from scheduler.simulator.world import PeerSpec, World


def decode_load(world: World, session: Session, settings: Settings) -> Load:
    """A token's way round the ring: one visit after the other."""
    specs = _specs(world, session.seats)
    nodes = [world.index[spec.peer_id] for spec in specs]
    between_s = sum(
        float(world.one_way_s[one, other])
        for one, other in zip(nodes, nodes[1:] + nodes[:1], strict=True)
    )
    if len(specs) > 1:
        between_s += sum(world.model.row_bytes / spec.up_bytes_per_s for spec in specs[:-1])
    lengths = [len(seat.span) for seat in session.seats]
    return Load(
        nodes=np.array(nodes),
        parts=_parts(session.seats),
        alone_s=np.array([spec.block_s * n for spec, n in zip(specs, lengths, strict=True)]),
        weight=np.array([spec.share for spec in specs]),
        carry_s=np.zeros(len(specs)),
        between_s=between_s + settings.visit_s * len(specs),
        is_stream=False,
    )


def prefill_load(world: World, session: Session) -> Load:
    """The prompt's rows are in all hops at once; each sends them on through its uplink."""
    carry_s = [world.model.row_bytes / spec.up_bytes_per_s for spec in _specs(world, session.seats)]
    return _stream(world, session.seats, [*carry_s[:-1], 0.0])


def replay_load(world: World, session: Session, new: Sequence[Seat]) -> Load:
    """New hops run what the lost ones had: from the journal of whoever sits before them.

    The first hop's rows are ids, which the client sends.
    """
    carry_s = []
    for seat in new:
        before = [other for other in session.seats if other.span.stop == seat.span.start]
        row_bytes = world.model.row_bytes
        carry_s += [
            row_bytes / world.spec(other.peer_id).up_bytes_per_s for other in before[:1]
        ] or [0.0]
    return replace(_stream(world, new, carry_s), slowdown=MENDING_SLOWDOWN)


def handover_row_s(world: World, old: PeerSpec, seats: Sequence[Seat]) -> float:
    """Per position, for KV and journal to go from the old hop to the new one."""
    n_blocks = sum(len(seat.span) for seat in seats)
    return (n_blocks * world.model.kv_bytes + world.model.row_bytes) / old.up_bytes_per_s


def opening_s(world: World, session: Session, new: Sequence[Seat], settings: Settings) -> float:
    """Until the first row runs everywhere: reserve and commit, then the pipeline fills.

    The hops are asked at the same time; a chunk's rows run through one hop after the other, of
    which the slowest one is counted with the rest of the rows.
    """
    region = session.request.region
    farthest_s = max(world.client_one_way_s(region, world.spec(seat.peer_id)) for seat in new)
    nodes = [world.index[seat.peer_id] for seat in session.seats]
    links_s = sum(float(world.one_way_s[a, b]) for a, b in pairwise(nodes))
    rows = min(settings.chunk_rows, session.length or session.request.n_prompt)
    times = [world.spec(seat.peer_id).prefill_block_s * len(seat.span) for seat in new]
    return 4 * farthest_s + links_s + rows * (sum(times) - max(times))


def _stream(world: World, seats: Sequence[Seat], carry_s: Sequence[float]) -> Load:
    specs = _specs(world, seats)
    alone_s = [
        spec.prefill_block_s * len(seat.span) for spec, seat in zip(specs, seats, strict=True)
    ]
    return Load(
        nodes=np.array([world.index[spec.peer_id] for spec in specs]),
        parts=_parts(seats),
        alone_s=np.array(alone_s),
        weight=np.ones(len(specs)),
        carry_s=np.array(carry_s),
        between_s=0.0,
        is_stream=True,
    )


def _parts(seats: Sequence[Seat]) -> NDArray[np.intp]:
    return np.array([part_key(seat.span.start, seat.span.stop) for seat in seats])


def _specs(world: World, seats: Sequence[Seat]) -> list[PeerSpec]:
    return [world.spec(seat.peer_id) for seat in seats]
