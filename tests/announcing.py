"""Peers and announcements for tests: real keys, grown from small numbers."""

from typing import Any

from protocol.address import Address
from protocol.announcements import Announcement, seal_announcement
from protocol.anti_entropy import Record
from protocol.identity import PeerId, peer_id_from_public_key
from protocol.messages import Span
from protocol.signing import OPEN_SWARM_ID, SigningKey

MANIFEST = bytes(range(32))
NOW_MS = 1_800_000_000_000


def key_of(n: int) -> SigningKey:
    return SigningKey.from_seed(n.to_bytes(32, "big"))


def peer_of(n: int) -> PeerId:
    return peer_id_from_public_key(key_of(n).public_key)


def announce(n: int, span: tuple[int, int] | None = (0, 8), **changes: Any) -> Announcement:
    """Peer `n` serving `span` of a model of 8 blocks, at 1 ms a block."""
    peer_id = peer_of(n)
    fields: dict[str, Any] = {
        "peer_id": peer_id,
        "addresses": (Address(f"10.0.{n // 250}.{n % 250 + 1}", 31400, peer_id),),
        "model": "tiny",
        "manifest": MANIFEST,
        "n_blocks": 8,
        "span": None if span is None else Span(*span),
        "profile": "float32/none/float32",
        "decode_us": 0 if span is None else 1000 * (span[1] - span[0]),
        "prefill_us_per_row": 500,
        "kv_free_bytes": 2**30,
        "max_positions": 4096,
        "sequence": NOW_MS,
        "issued_ms": NOW_MS,
        "expires_ms": NOW_MS + 30_000,
    }
    return Announcement(**{**fields, **changes})


def record(
    n: int,
    span: tuple[int, int] | None = (0, 8),
    *,
    signer: int | None = None,
    swarm_id: bytes = OPEN_SWARM_ID,
    ttl_ms: int = 30_000,
    **changes: Any,
) -> Record:
    key = key_of(n if signer is None else signer)
    return Record(ttl_ms, seal_announcement(announce(n, span, **changes), swarm_id, key))
