"""How a node that serves `--span auto` comes to other blocks: `node.moving`'s `Elsewhere`.

In: the command line, read, a model, how many of its blocks fit. Out: the span that the placement
wants of this node, its weights from disk, hub or peers, an engine, and words for the operator. The
placement is the scheduler's; here it meets the node, which need not know that room.
"""

import json
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import click

from manyhands.fetching import bring_weights
from manyhands.loading import describe, load
from manyhands.models import Model
from manyhands.planning import forecast
from manyhands.preparing import Prepared, Wanted
from manyhands.progress import say
from manyhands.weights.store import require_disk
from protocol.address import Address
from protocol.errors import ManyhandsError
from protocol.identity import Identity, PeerId

if TYPE_CHECKING:
    from node.engine import ShardEngine
    from node.moving_rules import Target
    from node.serving import Model as NodeModel
    from protocol.announcements import Announcement

MAX_ASKED = 8  # peers, for weights, besides those that --join names


class Abandoned(ManyhandsError):
    """Nobody waits for what was begun."""


class Elsewhere:
    """See `node.moving.Elsewhere`. `load_s`: what a load took at the start."""

    def __init__(
        self, wanted: Wanted, identity: Identity, prepared: Prepared, *, load_s: float
    ) -> None:
        self._wanted, self._identity, self._prepared = wanted, identity, prepared
        self._load_s = load_s
        self._peers: tuple[Address, ...] = ()  # that serve the model, as last seen
        self._is_abandoned = False

    def choose(
        self,
        announcements: Sequence["Announcement"],
        now: "Target",
        now_ms: int,
        stuck: Collection[PeerId],
    ) -> "Target | None":
        from node.moving_rules import Target
        from scheduler.placement import choose_move

        own = self._identity.peer_id
        hosts = [one for one in announcements if one.manifest == now.manifest]
        self._peers = tuple(one.addresses[0] for one in hosts if one.peer_id != own)[:MAX_ASKED]
        span = choose_move(
            announcements,
            manifest=now.manifest,
            n_blocks=self._model.manifest.n_blocks,
            capacity_blocks=self._prepared.capacity_blocks,
            peer_id=own,
        )
        return None if span is None else Target(now.manifest, span)

    def fetch(self, target: "Target") -> bool:
        wanted = self._wanted
        told, tensors = forecast(
            self._model,
            target.span,
            dtype=wanted.dtype,
            device=self._prepared.device,
            quantize=wanted.quantize,
            kv_cache_bytes=wanted.kv_cache,
        )
        require_disk(self._model.directory, told.fetch_bytes)
        join = tuple(dict.fromkeys((*self._peers, *wanted.join)))
        bring_weights(self._model, tensors, identity=self._identity, join=join)
        return told.plan.fits

    def load(self, target: "Target") -> "ShardEngine":
        device = self._prepared.device
        return load(self._wanted, self._model, target.span, device, gently=True, check=self._check)

    def describe(self, target: "Target", engine: "ShardEngine") -> "NodeModel":
        capacity = self._prepared.capacity_blocks
        return describe(self._wanted, self._model, engine, capacity_blocks=capacity)

    def abandon(self) -> None:
        self._is_abandoned = True

    def arrived(self, target: "Target") -> None:
        span = [target.span.start, target.span.stop]
        click.echo(json.dumps({"event": "moved", "model": self._model.name, "span": span}))

    def tell(self, line: str) -> None:
        say(line)

    @property
    def _model(self) -> Model:
        return self._prepared.model

    def _check(self) -> None:
        if self._is_abandoned:
            raise Abandoned("this node is leaving")
