"""Who a peer is: one Ed25519 key, and the libp2p peer id that names it.

In: a key. Out: the peer id text (base58 of the identity multihash of the key's libp2p protobuf,
libp2p peer-ids spec) and back.
"""

from typing import NewType

import base58

from protocol.errors import UsageError

PeerId = NewType("PeerId", str)

PUBLIC_KEY_BYTES = 32
# libp2p crypto.proto PublicKey{Type: Ed25519, Data: 32 bytes}, without the data
LIBP2P_ED25519_PREFIX = b"\x08\x01\x12\x20"
_IDENTITY_MULTIHASH = b"\x00\x24"  # hash function 0, 36 bytes follow
_PREFIX = _IDENTITY_MULTIHASH + LIBP2P_ED25519_PREFIX
_PEER_ID_CHARS = 52


def peer_id_from_public_key(public_key: bytes) -> PeerId:
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise UsageError(f"an Ed25519 public key has 32 bytes, got {len(public_key)}")
    return PeerId(base58.b58encode(_PREFIX + public_key).decode())


def public_key_from_peer_id(peer_id: str) -> bytes:
    """The 32 bytes that `peer_id` spells.

    Raises:
        UsageError: it is not the canonical text of an Ed25519 peer id.
    """
    hint = "a peer id begins with 12D3Koo and has 52 characters"
    if len(peer_id) != _PEER_ID_CHARS:
        raise UsageError(f"not a peer id: {peer_id[:60]!r}", hint=hint)
    try:
        raw = base58.b58decode(peer_id)
    except ValueError as error:
        raise UsageError(f"not a peer id: {peer_id!r}", hint=hint) from error
    if len(raw) != len(_PREFIX) + PUBLIC_KEY_BYTES or not raw.startswith(_PREFIX):
        raise UsageError(f"not an Ed25519 peer id: {peer_id!r}", hint=hint)
    return raw[len(_PREFIX) :]
