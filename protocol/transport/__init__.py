"""How bytes travel between two peers who have proven who they are.

The window shows what every transport offers; `protocol.transport.grpc` is the one for real
networks and `protocol.transport.memory` its twin inside one process. Importing this opens nothing.
"""

from protocol.transport.error_codec import PeerFailed, decode_error, encode_error
from protocol.transport.interface import (
    MAX_MESSAGE_BYTES,
    MAX_QUEUED_BYTES,
    PROTOCOL_VERSION,
    CallHandler,
    Connection,
    Counters,
    Gate,
    Listener,
    SeenCallHandler,
    Service,
    Stream,
    StreamHandler,
    Transport,
)

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MAX_QUEUED_BYTES",
    "PROTOCOL_VERSION",
    "CallHandler",
    "Connection",
    "Counters",
    "Gate",
    "Listener",
    "PeerFailed",
    "SeenCallHandler",
    "Service",
    "Stream",
    "StreamHandler",
    "Transport",
    "decode_error",
    "encode_error",
]
