"""The peers of a simulation: they come, load, announce, move and go.

In: the trace's presences and a rule. Out: who serves what, and the table of announcements as it
has spread. Sessions hear of losses through the two hooks.
"""

import random
from collections.abc import Callable, Mapping, Sequence

from protocol.announcements import Announcement
from protocol.identity import PeerId
from protocol.load import Load
from protocol.measured import State
from protocol.messages import Span
from scheduler.simulator.announcing import Announcer
from scheduler.simulator.events import Events
from scheduler.simulator.policies import Policy, Spans, Standing
from scheduler.simulator.state import Peer, PeerState, Session, Settings
from scheduler.simulator.traces import Presence
from scheduler.simulator.world import World

OnLoss = Callable[[Session, Peer, float], None]  # (session, peer, seconds until it is noticed)
OnDrain = Callable[[Peer], None]


class Fleet:
    """See the module. It is the `Swarm` that rules look at."""

    def __init__(
        self,
        world: World,
        policy: Policy,
        events: Events,
        rng: random.Random,
        settings: Settings,
        announcer: Announcer,
    ) -> None:
        self._world, self.peers = world, [Peer(spec, i) for i, spec in enumerate(world.peers)]
        self.n_moves = self.fetched_bytes = self.n_crashes = 0
        self.on_loss: OnLoss = lambda session, peer, notice_s: None
        self.on_drain: OnDrain = lambda peer: None
        self._policy, self._events, self._rng = policy, events, rng
        self._settings, self._announcer = settings, announcer
        self._table: dict[PeerId, Announcement] = {}
        self._listed: tuple[Announcement, ...] | None = None

    @property
    def world(self) -> World:
        return self._world

    @property
    def now_s(self) -> float:
        return self._events.now_s

    @property
    def standing(self) -> Mapping[PeerId, Standing]:
        return {
            peer.spec.peer_id: Standing(
                peer.spec,
                peer.next_span or peer.span,
                peer.is_serving,
                peer.spec.kv_bytes - peer.kv_used,
                len(peer.sessions),
                peer.since_s,
            )
            for peer in self.peers
            if peer.is_there
        }

    @property
    def announcements(self) -> Sequence[Announcement]:
        if self._listed is None:
            self._listed = tuple(self._table.values())
        return self._listed

    def ask_load(self, peer_id: PeerId) -> Load | None:
        peer = self.peer(peer_id)
        if peer.span is None or not (peer.is_serving or peer.state is PeerState.DRAINING):
            return None
        now, peer.n_asked = self._announcer.record(peer, _state(peer), self.now_s), peer.n_asked + 1
        return Load(
            n_sessions=now.n_sessions,
            queue_us=now.measured.queue_us,
            kv_free_bytes=now.kv_free_bytes,
            state=now.measured.state,
            ticket=peer.n_asked,
        )

    def room_for_new(self, peer: Peer) -> int:
        """In bytes: what a session gets that has not begun."""
        kept = self._announcer.kept_bytes(peer, self._announcer.backlog_s(peer))
        return peer.spec.kv_bytes - peer.kv_used - kept

    def peer(self, peer_id: PeerId) -> Peer:
        return self.peers[self.world.index[peer_id]]

    def plan(self, presences: Sequence[Presence]) -> None:
        """Peers that are there from the beginning have their weights; others fetch them first."""
        for presence in presences:
            peer = self.peer(presence.peer_id)
            self._events.at(presence.join_s, lambda peer=peer: self._join(peer))  # type: ignore[misc]
            self._events.at(
                presence.leave_s,
                lambda peer=peer, proper=presence.is_proper: self._leave(peer, proper),  # type: ignore[misc]
            )

    def _join(self, peer: Peer) -> None:
        if peer.is_there:
            return
        peer.visit += 1
        peer.state, peer.span, peer.since_s = PeerState.WAITING, None, self.now_s
        self._apply(self._policy.joined(self, peer.spec.peer_id, self._rng))

    def _leave(self, peer: Peer, proper: bool) -> None:
        if not peer.is_there:
            return
        if proper and self._policy.drains and peer.is_serving:
            self._drain(peer, None)
        else:
            self._go(peer, 0.0 if proper else self._settings.silence_s)

    def _go(self, peer: Peer, notice_s: float) -> None:
        """It is gone; `notice_s` later those who spoke with it know."""
        was_serving = peer.state in (PeerState.SERVING, PeerState.DRAINING)
        peer.visit += 1
        peer.state, peer.span, peer.next_span = PeerState.AWAY, None, None
        peer.is_fetching = False
        self.n_crashes += notice_s > 0
        for session in list(peer.sessions.values()):
            self.on_loss(session, peer, notice_s)
        if was_serving:
            last = peer.announced
            forget_s = self._settings.lifetime_s if notice_s else self._settings.gossip_s
            self._events.after(forget_s, lambda: self._forget(peer, last))
        delay_s = self._settings.lifetime_s if notice_s else 0.0
        self._events.after(
            delay_s,
            lambda: self._apply(self._policy.left(self, peer.spec.peer_id, self._rng)),
        )

    def _forget(self, peer: Peer, last: Announcement | None) -> None:
        if self._table.get(peer.spec.peer_id) is last:
            self._table.pop(peer.spec.peer_id, None)
            self._listed = None

    def _apply(self, spans: Spans) -> None:
        for peer_id, span in spans.items():
            peer = self.peer(peer_id)
            assert len(span) <= peer.spec.capacity_blocks, "a rule gave a peer more than it holds"
            if not peer.is_there or span == (peer.next_span or peer.span):
                continue
            if not peer.is_serving or self.now_s == 0:
                if peer.state is not PeerState.DRAINING:
                    self._load(peer, span)
                continue
            if self._policy.fetches_first:
                self._fetch(peer, span)
                continue
            self.n_moves += 1
            if self._policy.drains:
                self._drain(peer, span)
            else:
                for session in list(peer.sessions.values()):
                    self.on_loss(session, peer, 0.0)
                self._load(peer, span)

    def _fetch(self, peer: Peer, span: Span) -> None:
        """Bring another span's weights while this one is served, then look again."""
        if peer.is_fetching:
            return
        peer.is_fetching, visit = True, peer.visit
        fetch_s = self._bring(peer, span)
        self._events.after(fetch_s, lambda: self._fetched(peer, visit, span))

    def _fetched(self, peer: Peer, visit: int, span: Span) -> None:
        if peer.visit != visit:
            return
        peer.is_fetching = False
        wanted = self._policy.looked(self, peer.spec.peer_id, self._rng)
        if wanted.get(peer.spec.peer_id) == span:
            self.n_moves += 1
            self._drain(peer, span)

    def _bring(self, peer: Peer, span: Span) -> float:
        """Seconds to fetch what the disk lacks. What lies on it stays there."""
        new = set(range(span.start, span.stop)) - peer.on_disk
        peer.on_disk |= new
        n_bytes = len(new) * self.world.model.block_bytes
        if self.now_s > 0:  # who is there from the beginning has its weights
            self.fetched_bytes += n_bytes
        return n_bytes / peer.spec.down_bytes_per_s

    def _drain(self, peer: Peer, next_span: Span | None) -> None:
        peer.visit += 1
        peer.state, peer.next_span = PeerState.DRAINING, next_span
        self._publish(peer)
        self.on_drain(peer)
        visit = peer.visit
        self._events.after(self._settings.drain_s, lambda: self._drained(peer, visit))
        self.left_by(peer)

    def left_by(self, peer: Peer) -> None:
        """A session left a peer; who drains may be done with it."""
        if peer.state is PeerState.DRAINING and not peer.sessions:
            self._drained(peer, peer.visit)

    def _drained(self, peer: Peer, visit: int) -> None:
        if peer.visit != visit or peer.state is not PeerState.DRAINING:
            return
        if peer.next_span is None:
            self._go(peer, 0.0)
            return
        for session in list(peer.sessions.values()):
            self.on_loss(session, peer, 0.0)
        self._load(peer, peer.next_span)

    def _load(self, peer: Peer, span: Span) -> None:
        """Fetch what the disk lacks, load it, serve."""
        peer.visit += 1
        peer.state, peer.span, peer.next_span = PeerState.LOADING, span, None
        peer.is_fetching = False
        last = peer.announced
        self._events.after(self._settings.gossip_s, lambda: self._forget(peer, last))
        load_s = self._bring(peer, span) + len(span) * peer.spec.load_block_s
        if self.now_s == 0:
            self._serve(peer, peer.visit)
            return
        visit = peer.visit
        self._events.after(load_s, lambda: self._serve(peer, visit))

    def _serve(self, peer: Peer, visit: int) -> None:
        if peer.visit != visit:
            return
        peer.state = PeerState.SERVING
        self._announce(peer, visit)
        self._events.after(
            self._policy.look_s * self._rng.uniform(0.5, 1.5), lambda: self._look(peer, visit)
        )

    def _look(self, peer: Peer, visit: int) -> None:
        if peer.visit != visit or not peer.is_serving:
            return
        self._apply(self._policy.looked(self, peer.spec.peer_id, self._rng))
        if peer.visit == visit:
            look_s = self._policy.look_s * self._rng.uniform(0.8, 1.2)
            self._events.after(look_s, lambda: self._look(peer, visit))

    def _announce(self, peer: Peer, visit: int) -> None:
        if peer.visit != visit:
            return
        self._publish(peer)
        announce_s = self._settings.announce_s * self._rng.uniform(0.8, 1.2)
        self._events.after(announce_s, lambda: self._announce(peer, visit))

    def _publish(self, peer: Peer) -> None:
        peer.announced = record = self._announcer.record(peer, _state(peer), self.now_s)
        if self.now_s == 0:
            self._take(peer, record)
        else:
            self._events.after(self._settings.gossip_s, lambda: self._take(peer, record))

    def _take(self, peer: Peer, record: Announcement) -> None:
        if peer.announced is record and peer.state in (PeerState.SERVING, PeerState.DRAINING):
            self._table[peer.spec.peer_id] = record
            self._listed = None
        elif peer.state is PeerState.AWAY and peer.announced is record:
            self._table[peer.spec.peer_id] = record  # it died before its record was everywhere
            self._listed = None


def _state(peer: Peer) -> State:
    if peer.state is not PeerState.DRAINING:
        return State.SERVING
    return State.DRAINING if peer.next_span is None else State.MOVING
