"""Days as signed objects count them, from 1970-01-01 on, and their names."""

from datetime import UTC, datetime

DAY_S = 86_400


def day_name(epoch: int) -> str:
    """As people write it, in UTC."""
    try:
        return datetime.fromtimestamp(epoch * DAY_S, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):  # a signer's clock may say anything
        return "9999-12-31"
