"""What serving a span would take of this machine, before anything large is fetched or loaded.

In: a model of which nothing but the small files need be here, a span, how its weights are to be
kept. Out: a `Forecast`: memory, disk, what sessions and audits take, whether it fits and what
would.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from manyhands.audit_room import AuditRoom, audit_room, counted_bytes
from manyhands.fetching import missing_bytes
from manyhands.models import Model
from manyhands.progress import size
from manyhands.weights.store import free_disk_bytes, require_disk
from protocol.messages import Span

if TYPE_CHECKING:
    from node.engine import Plan
    from node.share import Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """See the module. `plan` is the engine's; audit_bytes: what of `audit` lies in its memory."""

    model: Model
    plan: "Plan"
    device: str
    audit: AuditRoom
    audit_bytes: int
    fetch_bytes: int
    disk_free_bytes: int

    @property
    def fits(self) -> bool:
        return self.plan.fits and self.fetch_bytes <= self.disk_free_bytes

    @property
    def positions(self) -> int:
        """How many the cache for sessions holds, over all sessions."""
        each = self.plan.kv_bytes_per_position + self.plan.journal_bytes_per_position
        return self.plan.kv_cache_bytes // max(1, each)

    @property
    def span_that_fits(self) -> Span | None:
        start, count = self.plan.span.start, self.plan.n_blocks_that_fit
        return Span(start, start + min(count, len(self.plan.span))) if count else None

    @property
    def free_bytes(self) -> int | None:
        """Of the device's memory, before any of this."""
        if self.plan.room_bytes is None:
            return None
        return self.plan.room_bytes + self.plan.kv_cache_bytes + self.audit_bytes

    def require(self) -> None:
        """Return if it fits.

        Raises:
            OutOfMemory: what is lacking, memory or disk, and what would fit.
        """
        self.plan.require(self.device)
        require_disk(self.model.directory, self.fetch_bytes)

    def lines(self) -> list[str]:
        plan = self.plan
        free = "unknown" if self.free_bytes is None else size(self.free_bytes)
        kv, journal = 1000 * plan.kv_bytes_per_position, 1000 * plan.journal_bytes_per_position
        told = [
            f"blocks {plan.span} of {self.model.name}: {size(plan.weights_bytes)} of weights, "
            f"{size(plan.loading_bytes)} while loading; {self.device} has {free} free",
            f"sessions: {size(plan.kv_cache_bytes)} hold {self.positions:,} positions; 1,000 take "
            f"{size(kv)} of keys and values and {size(journal)} of journal",
            f"audits: up to {size(self.audit.n_bytes)} of memory for rows and fingerprints of "
            "answers that are over",
        ]
        if self.fetch_bytes:
            disk = f"the disk has {size(self.disk_free_bytes)} free"
            told.append(f"to fetch: {size(self.fetch_bytes)}; {disk}")
        return told

    def to_json(self) -> dict[str, Any]:
        plan, fitting = self.plan, self.span_that_fits
        manifest = self.model.manifest
        return {
            "schema": "manyhands/plan/v1",
            "model": self.model.name,
            "manifest": manifest.digest.hex(),
            "licence": manifest.licence,
            "revision": manifest.revision,
            "n_blocks": manifest.n_blocks,
            "span": [plan.span.start, plan.span.stop],
            "device": self.device,
            "weights_bytes": plan.weights_bytes,
            "loading_bytes": plan.loading_bytes,
            "kv_bytes_per_position": plan.kv_bytes_per_position,
            "journal_bytes_per_position": plan.journal_bytes_per_position,
            "kv_cache_bytes": plan.kv_cache_bytes,
            "positions": self.positions,
            "free_bytes": self.free_bytes,
            "audit_bytes": self.audit.n_bytes,
            "fetch_bytes": self.fetch_bytes,
            "disk_free_bytes": self.disk_free_bytes,
            "fits": self.fits,
            "span_that_fits": [fitting.start, fitting.stop] if fitting else None,
        }


def forecast(
    model: Model,
    span: Span,
    *,
    dtype: str,
    device: str,
    quantize: str,
    kv_cache_bytes: int,
    share: "Share | None" = None,
) -> tuple[Forecast, Collection[str]]:
    """The forecast, and the tensors that the span needs.

    Raises:
        BadModel, UsageError, ConfigError: the model cannot be served that way at all.
    """
    from node.engine import plan_shard, span_tensors

    audit_bytes = counted_bytes(device, share)
    plan = plan_shard(
        model.directory,
        span,
        dtype=dtype,
        device=device,
        quantize=quantize,
        kv_cache_bytes=kv_cache_bytes + audit_bytes,
        share=share,
    )
    tensors: Collection[str] = ()
    if model.store is not None:
        tensors = span_tensors(model.directory, span, model.manifest.tensors)
    told = Forecast(
        model=model,
        plan=replace(plan, kv_cache_bytes=kv_cache_bytes),
        device=device,
        audit=audit_room(device, share),
        audit_bytes=audit_bytes,
        fetch_bytes=missing_bytes(model, tensors),
        disk_free_bytes=free_disk_bytes(model.directory),
    )
    return told, tensors
