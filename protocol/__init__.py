"""What two strangers must agree on: values, rules and errors. No I/O here, no torch.

The second window, `protocol.transport`, is where bytes travel.
"""

from protocol.messages import SessionId, Span

__all__ = ["SessionId", "Span"]
