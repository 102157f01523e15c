"""What every message asks of its fields: a stranger wrote it."""

from protocol.errors import PeerMisbehaved

MAX_POSITIONS = 1 << 24


def require(condition: bool, complaint: str) -> None:
    """Refuse a message that breaks a rule: whoever sent it is at fault."""
    if not condition:
        raise PeerMisbehaved("", complaint)


def require_id(value: bytes, name: str, size: int = 16) -> None:
    require(len(value) == size, f"{name} must have {size} bytes, got {len(value)}")
