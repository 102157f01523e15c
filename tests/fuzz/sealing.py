"""What several keys signed, whatever it is: strangers sign what they like."""

from protocol.signing import Envelope, SigningKey, signed_bytes


def envelope_of(kind: str, swarm_id: bytes, data: bytes, *keys: SigningKey) -> Envelope:
    """These bytes, signed by all of these keys as an object of this kind."""
    message = signed_bytes(kind, swarm_id, data)
    return Envelope(kind, data, tuple(sorted((key.public_key, key.sign(message)) for key in keys)))
