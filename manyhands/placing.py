"""Where a node serves, as the scheduler's placement sees it: at the start, and when it moves.

In: the models that this machine could serve, and who serves what. Out: blocks of one of them. Of
several models a node serves one at a time, chosen by demand. Here the placement, which is the
scheduler's, meets the node, which need not know that room. That others hear of a choice before it
is loaded is `arriving.py`'s.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from manyhands.models import Model
from protocol.clock import wall_ms
from protocol.identity import PeerId
from protocol.messages import Span

if TYPE_CHECKING:
    from node.moving_rules import Target
    from protocol.announcements import Announcement
    from scheduler.demand import Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Servable:
    """A model that this machine could serve, and how many of its blocks fit."""

    model: Model
    capacity_blocks: int

    @property
    def digest(self) -> bytes:
        return self.model.manifest.digest

    @property
    def candidate(self) -> "Candidate":
        from scheduler.demand import Candidate

        n_blocks = self.model.manifest.n_blocks
        return Candidate(self.digest, n_blocks, min(self.capacity_blocks, n_blocks))


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """One node's choices. `reload_s`: how long it would serve nothing."""

    choices: tuple[Servable, ...]
    peer_id: PeerId
    region: str
    reload_s: float = 60.0

    def first(
        self, announcements: Sequence["Announcement"], loading: Sequence["Announcement"] = ()
    ) -> tuple[Servable, Span]:
        """Where to begin. `loading`: who will serve before this node does."""
        now_ms = wall_ms()
        chosen = self._model(announcements, None, now_ms)
        return chosen, self._newcomer(announcements, chosen, now_ms, loading)

    def again(
        self,
        announcements: Sequence["Announcement"],
        chosen: Servable,
        loading: Sequence["Announcement"],
    ) -> Span:
        """Where to begin in the same model, now that more is known of who else begins."""
        return self._newcomer(announcements, chosen, wall_ms(), loading)

    def foretold(
        self,
        announcements: Sequence["Announcement"],
        other: "Announcement",
        loading: Sequence["Announcement"],
    ) -> "Announcement":
        """`other`, which begins at the same time as we do, with what it will choose after these."""
        from scheduler.placement import choose_span

        span = choose_span(
            announcements,
            manifest=other.manifest,
            n_blocks=other.n_blocks,
            capacity_blocks=other.measured.capacity_blocks,
            peer_id=other.peer_id,
            region=other.region,
            loading=loading,
            now_ms=wall_ms(),
        )
        return replace(other, loading=span)

    def next(
        self,
        announcements: Sequence["Announcement"],
        now: "Target",
        now_ms: int,
        stuck: Collection[PeerId],
    ) -> "Target | None":
        """Where to go on; None: stay. See `node.moving.Elsewhere`."""
        from node.moving_rules import Target
        from scheduler.placement import choose_move

        chosen = self._model(announcements, now.manifest, now_ms)
        if chosen.digest != now.manifest:
            return Target(chosen.digest, self._newcomer(announcements, chosen, now_ms))
        span = choose_move(
            announcements,
            manifest=now.manifest,
            n_blocks=chosen.model.manifest.n_blocks,
            capacity_blocks=chosen.capacity_blocks,
            peer_id=self.peer_id,
            now_ms=now_ms,
            reload_s=self.reload_s,
            stuck=stuck,
        )
        return Target(now.manifest, span) if span is not None else None

    def of(self, digest: bytes) -> Servable:
        return next(one for one in self.choices if one.digest == digest)

    def _model(
        self, announcements: Sequence["Announcement"], serving: bytes | None, now_ms: int
    ) -> Servable:
        from scheduler.demand import choose_model

        if len(self.choices) == 1:
            return self.choices[0]
        chosen = choose_model(
            announcements,
            [one.candidate for one in self.choices],
            peer_id=self.peer_id,
            now_serving=serving,
            now_ms=now_ms,
        )
        return self.of(chosen.manifest)

    def _newcomer(
        self,
        announcements: Sequence["Announcement"],
        chosen: Servable,
        now_ms: int,
        loading: Sequence["Announcement"] = (),
    ) -> Span:
        from scheduler.placement import choose_span

        return choose_span(
            announcements,
            manifest=chosen.digest,
            n_blocks=chosen.model.manifest.n_blocks,
            capacity_blocks=chosen.capacity_blocks,
            peer_id=self.peer_id,
            region=self.region,
            loading=loading,
            now_ms=now_ms,
        )
