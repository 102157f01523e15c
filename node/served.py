"""What a node serves: the span, as what, and in how much room. What a request must fit."""

from dataclasses import dataclass

from node.engine import ShardEngine
from protocol.profile import Profile
from protocol.wire import wire_format


@dataclass(frozen=True, slots=True)
class Served:
    """What this node serves: what a request must fit."""

    engine: ShardEngine
    manifest: bytes
    profile: Profile
    budget_bytes: int  # for KV caches and journals together

    @property
    def row_bytes(self) -> int:
        """One row of hidden states, on the wire or in a journal."""
        return wire_format(self.profile.wire).row_bytes(self.engine.hidden_size)
