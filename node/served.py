"""What a node serves: the span, as what, and in how much room. What a request must fit."""

from dataclasses import dataclass

from node.draft_model import DraftModel
from node.drafting import DRAFTERS
from node.engine import ShardEngine
from protocol.asking import MODEL_DRAFTER
from protocol.errors import ContextExceeded, PeerRefused, UsageError, VersionMismatch
from protocol.messages import Reserve
from protocol.profile import Profile
from protocol.transport.greeting import FEATURES, GRAMMARS
from protocol.wire import wire_format

HELD = ("adapter",)  # of the extensions, where the client draws itself
READ = ("pooling", "prompt_logprobs")
SERVED = (
    *HELD,
    *READ,
    "drafter",
    "logit_bias",
    "logprobs",
    *(["grammar"] if GRAMMARS in FEATURES else []),
)


@dataclass(frozen=True, slots=True)
class Served:
    """What this node serves: what a request must fit."""

    engine: ShardEngine
    manifest: bytes
    profile: Profile
    budget_bytes: int  # for KV caches and journals together
    draft_model: DraftModel | None = None

    @property
    def row_bytes(self) -> int:
        """One row of hidden states, on the wire or in a journal."""
        return wire_format(self.profile.wire).row_bytes(self.engine.hidden_size)

    @property
    def is_whole(self) -> bool:
        """Whether it runs all of the model."""
        return len(self.engine.span) == self.engine.n_blocks

    def require(self, reserve: Reserve) -> None:
        """Return if this is what a session asks for, room and manners apart.

        Raises:
            ManyhandsError: it asks for another model, other blocks, or what is not served.
        """
        engine = self.engine
        if reserve.manifest != self.manifest:
            raise VersionMismatch(
                "",
                f"this node serves model {self.manifest.hex()[:16]}, "
                f"asked for {reserve.manifest.hex()[:16]}",
                hint="use the same checkpoint on every node: manyhands peers shows who serves what",
            )
        if not engine.span.holds(reserve.span) or reserve.n_blocks != engine.n_blocks:
            raise PeerRefused("", f"blocks {reserve.span} are not in {engine.span} served here")
        if reserve.profile not in ("", str(self.profile)):
            raise PeerRefused(
                "",
                f"this node runs {self.profile}, not {reserve.profile}",
                hint="manyhands peers shows who runs what; --profile asks for one",
            )
        served = HELD if reserve.client_ends else SERVED
        if unserved := [name for name in reserve.extensions.used() if name not in served]:
            raise UsageError(f"not served yet: {', '.join(unserved)}")
        self._require_drafter(reserve.extensions.drafter)
        if reserve.extensions.adapter:
            adapter = engine.adapters.get(reserve.extensions.adapter)
            if reserve.client_ends and adapter.adapts_head:
                raise PeerRefused("", f"adapter {adapter.name} changes the head, which you hold")
        if reserve.capacity > engine.max_positions:
            raise ContextExceeded(
                f"{reserve.capacity} positions do not fit the model's {engine.max_positions}"
            )

    def _require_drafter(self, drafter: str) -> None:
        if drafter == MODEL_DRAFTER and self.draft_model is None:
            raise PeerRefused("", "this node has no model to guess with", hint="--drafter auto")
        if drafter and drafter not in (*DRAFTERS, MODEL_DRAFTER):
            known = ", ".join(sorted((*DRAFTERS, MODEL_DRAFTER)))
            raise UsageError(f"no drafter is called {drafter} here", hint=f"one of {known}")
