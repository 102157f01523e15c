"""What a session at a node needs of that node, handed to each of its hops."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledger.receipts import Receipt
from node.batching import Batcher
from node.filing import File
from node.fingerprints import FingerprintShelf
from node.grammars import Grammars
from node.neighbours import Neighbours
from node.prefixes import Prefixes
from node.vetting import Vetting
from protocol.tracing import Tracer
from protocol.transport import Stream, Transport

if TYPE_CHECKING:
    from node.draft_model import DraftModel
    from node.hop import Hop


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The same for all hops of a node."""

    peer_id: str
    swarm_id: bytes
    batcher: Batcher
    neighbours: Neighbours
    prefixes: Prefixes
    transport: Transport
    vetting: Vetting
    inbound: dict[str, Stream]  # data streams that predecessors opened to us
    grammars: Grammars
    freed: Callable[["Hop"], None]
    paid: Callable[[str], None]  # a client signed for more
    keep: Callable[[Receipt], None]  # remember an open tab's latest voucher
    file: File
    hidden_size: int
    shelf: FingerprintShelf
    tracer: Tracer | None  # who keeps spans of what clients trace
    draft_model: "DraftModel | None" = None
