"""What a simulated peer would announce: the same record as a real node's, with honest numbers."""

from typing import Final

import numpy as np

from protocol.address import Address
from protocol.announcements import Announcement, Link
from protocol.measured import Measured, State
from protocol.told_links import told_links
from scheduler.simulator.rates import Rates
from scheduler.simulator.state import Peer, Phase, Settings
from scheduler.simulator.stations import SLOWDOWN
from scheduler.simulator.world import PeerSpec, World

MANIFEST: Final = bytes(32)
PROFILE: Final = "float32/none/float32"
BATCHES: Final = (1, 2, 4, 8, 16, 32)
MAX_POSITIONS: Final = 1 << 20
EPOCH_MS: Final = 1_800_000_000_000


def announced_blocks_per_s(spec: PeerSpec) -> float:
    """What others will take its speed for, by the batch sizes that are measured."""
    return max(batch / spec.step_s(1, batch) for batch in BATCHES)


class Announcer:
    """Makes records; keeps what does not change about a peer."""

    def __init__(self, world: World, rates: Rates, settings: Settings, *, admits: bool) -> None:
        self._world, self._rates, self._settings, self._admits = world, rates, settings, admits
        self._addresses = [
            (Address(f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}", 31400, peer.peer_id),)
            for i, peer in enumerate(world.peers)
        ]
        self._links = [self._told(i) for i in range(len(world.peers))]

    def record(self, peer: Peer, state: State, now_s: float) -> Announcement:
        """Of a peer that serves, at this moment."""
        spec, span = peer.spec, peer.span
        assert span is not None
        issued_ms = EPOCH_MS + round(now_s * 1000)
        n_blocks, free, backlog_s = len(span), spec.kv_bytes - peer.kv_used, self.backlog_s(peer)
        kept = self.kept_bytes(peer, backlog_s)
        return Announcement(
            peer_id=spec.peer_id,
            addresses=self._addresses[peer.index],
            model="simulated",
            manifest=MANIFEST,
            n_blocks=self._world.model.n_blocks,
            span=span,
            profile=PROFILE,
            decode_us=max(1, round(spec.step_s(n_blocks, 1) * 1e6)),
            prefill_us_per_row=max(1, round(spec.prefill_block_s * n_blocks * 1e6)),
            kv_free_bytes=free - kept,
            max_positions=MAX_POSITIONS,
            n_sessions=len(peer.sessions),
            region=spec.region,
            links=self._links[peer.index],
            measured=Measured(
                decode_steps_us=tuple(
                    (batch, max(1, round(spec.step_s(n_blocks, batch) * 1e6))) for batch in BATCHES
                ),
                queue_us=round(self._rates.waited_s(peer.index) * 1e6),
                shared_us=max(1, round(self._rates.shared_s(peer.index) * 1e6)),
                backlog_us=round(backlog_s * 1e6),
                kept_bytes=kept,
                position_bytes=n_blocks * self._world.model.kv_bytes,
                rows_per_s=round(sum(1 / s.row_s for s in peer.sessions.values() if s.row_s > 0)),
                up_bytes_per_s=round(spec.up_bytes_per_s),
                down_bytes_per_s=round(spec.down_bytes_per_s),
                capacity_blocks=spec.capacity_blocks,
                since_ms=EPOCH_MS + round(peer.since_s * 1000),
                state=state,
            ),
            sequence=issued_ms + 1,
            issued_ms=issued_ms,
            expires_ms=issued_ms + round(self._settings.lifetime_s * 1000),
        )

    def kept_bytes(self, peer: Peer, backlog_s: float) -> int:
        """Of the free room: what new sessions do not get, as in node/sessions.py."""
        free = peer.spec.kv_bytes - peer.kv_used
        if not self._admits or not peer.sessions:
            return 0
        if backlog_s > self._settings.line_s:
            return free
        return min(free, round(peer.spec.kv_bytes * self._settings.kept_room))

    def backlog_s(self, peer: Peer) -> float:
        """What the prompts take that wait there; of each, rows wait where it is held up."""
        prompts_s = decodes = 0.0
        for session in peer.sessions.values():
            if session.phase is Phase.DECODE:
                decodes += 1
            elif session.phase in (Phase.PREFILL, Phase.REPLAY) and session.load is not None:
                share = self._rates.share_of_time(session.id, session.load, peer.index)
                alone_s = session.load.alone_s[session.load.nodes == peer.index].sum()
                prompts_s += share * session.rows_left * float(alone_s)
        return prompts_s * (SLOWDOWN / (SLOWDOWN - 1) if decodes else 1.0)  # as node/schedule.py

    def _told(self, index: int) -> tuple[Link, ...]:
        """Of links to everybody: gossip meets all of them in the end."""
        rtt_us = np.rint(self._world.one_way_s[index] * 2e6).astype(int).tolist()
        peers = self._world.peers
        others = (i for i in range(len(peers)) if i != index)
        return told_links(Link(peers[i].peer_id, rtt_us[i]) for i in others)
