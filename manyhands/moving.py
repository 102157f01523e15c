"""How a node that serves `--span auto` comes to other blocks: `node.moving`'s `Elsewhere`.

In: the command line, read, and the models it names. Out: the blocks that `placing.py` says, their
weights from disk, hub or peers, an engine, and words for the operator.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from manyhands.loading import describe, load
from manyhands.loads import Loads
from manyhands.party import Party
from manyhands.placing import Servable
from manyhands.planning import forecast
from manyhands.preparing import Prepared, Wanted
from manyhands.progress import say
from manyhands.weights.store import require_disk
from protocol.address import Address
from protocol.errors import ManyhandsError
from protocol.identity import PeerId

if TYPE_CHECKING:
    from node.engine import ShardEngine
    from node.moving_rules import Target
    from node.serving import Model as NodeModel
    from protocol.announcements import Announcement

MAX_ASKED = 8  # peers, for weights, besides those that --join names


class Abandoned(ManyhandsError):
    """Nobody waits for what was begun."""


class Elsewhere:
    """See `node.moving.Elsewhere`."""

    def __init__(
        self, wanted: Wanted, party: Party, prepared: Prepared, loads: Loads | None = None
    ) -> None:
        """loads: counts what is fetched and loaded."""
        self._wanted, self._party, self._prepared = wanted, party, prepared
        self._loads = loads or Loads()
        self._peers: Mapping[bytes, list[Address]] = {}  # of each model, as last seen
        self._is_abandoned = False

    def choose(
        self,
        announcements: Sequence["Announcement"],
        now: "Target",
        now_ms: int,
        stuck: Collection[PeerId],
    ) -> "Target | None":
        placing = self._prepared.placing
        hosts = [one for one in announcements if one.peer_id != self._party.peer_id]
        self._peers = {
            choice.digest: [
                way for one in hosts if one.manifest == choice.digest for way in one.ways
            ]
            for choice in placing.choices
        }
        target = placing.next(announcements, now, now_ms, stuck)
        return target if target is not None and self._may_serve(target) else None

    def _may_serve(self, target: "Target") -> bool:
        """By the swarm's rules, which may have changed since this node began."""
        membership, model = self._party.membership, self._servable(target).model
        return membership is None or not membership.judge(target.manifest, model.name).refused

    def fetch(self, target: "Target") -> bool:
        wanted, model = self._wanted, self._servable(target).model
        told, tensors = forecast(
            model,
            target.span,
            dtype=wanted.dtype,
            device=self._prepared.device,
            quantize=wanted.quantize,
            kv_cache_bytes=wanted.kv_cache,
            share=wanted.share(self._prepared.device),
        )
        require_disk(model.directory, told.fetch_bytes)
        peers = self._peers.get(target.manifest, [])[:MAX_ASKED]
        join = tuple(dict.fromkeys((*peers, *wanted.join)))
        self._loads.bring(model, tensors, party=self._party, join=join)
        return told.plan.fits

    def load(self, target: "Target") -> "ShardEngine":
        model, device = self._servable(target).model, self._prepared.device
        with self._loads.timed(model):
            return load(self._wanted, model, target.span, device, gently=True, check=self._check)

    def describe(self, target: "Target", engine: "ShardEngine") -> "NodeModel":
        chosen = self._servable(target)
        return describe(self._wanted, chosen.model, engine, capacity_blocks=chosen.capacity_blocks)

    def abandon(self) -> None:
        self._is_abandoned = True

    def arrived(self, target: "Target") -> None:
        span = [target.span.start, target.span.stop]
        name = self._servable(target).model.name
        click.echo(json.dumps({"event": "moved", "model": name, "span": span}))

    def tell(self, line: str) -> None:
        say(line)

    def _servable(self, target: "Target") -> Servable:
        return self._prepared.placing.of(target.manifest)

    def _check(self) -> None:
        if self._is_abandoned:
            raise Abandoned("this node is leaving")
