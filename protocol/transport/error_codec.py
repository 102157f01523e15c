"""An error of ours as bytes, so that it reaches the other side as the class it was.

In: a `ManyhandsError`. Out: a JSON object of its code, message, hint and the few fields some
classes carry; and back, through a table of the classes in `protocol.errors`. A code that this
version does not know becomes a plain `PeerError`, so that newer peers may add classes, and what
the sender did not foresee is a `PeerFailed`: theirs to mend, ours to route around. Tracebacks never
travel.
"""

import json
from typing import Any

from protocol import errors
from protocol.errors import (
    ConstraintBroken,
    InDebt,
    LogNeeded,
    ManyhandsError,
    PeerBusy,
    PeerError,
    PeerMisbehaved,
    SwarmIncomplete,
)

MAX_ERROR_BYTES = 8192  # what we make is smaller, and fits a call's metadata
_MAX_MESSAGE_CHARS, _MAX_HINT_CHARS, _MAX_RUNS = 1000, 300, 64


class PeerFailed(PeerError):
    """Its handler met an error that it did not foresee; only its own log says more."""

    code = "unexpected"


BY_CODE: dict[str, type[ManyhandsError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ManyhandsError)
} | {PeerFailed.code: PeerFailed}


def encode_error(error: ManyhandsError) -> bytes:
    fields: dict[str, object] = {"code": error.code}
    if isinstance(error, PeerError):
        fields |= {"peer_id": error.peer_id[:64], "message": error.reason[:_MAX_MESSAGE_CHARS]}
    else:
        fields["message"] = str(error)[:_MAX_MESSAGE_CHARS]
    if error.hint:
        fields["hint"] = error.hint[:_MAX_HINT_CHARS]
    if isinstance(error, PeerBusy):
        fields["queue_depth"] = error.queue_depth
    if isinstance(error, LogNeeded):
        fields["size"] = error.size
    if isinstance(error, ConstraintBroken):
        fields["constraint"] = error.constraint
    if isinstance(error, InDebt):
        fields |= {"owed_ncr": error.owed_ncr, "limit_ncr": error.limit_ncr}
    if isinstance(error, SwarmIncomplete):
        fields["missing"] = error.missing[:_MAX_RUNS]
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="replace")


def decode_error(data: bytes, sender: str) -> ManyhandsError:
    """What `sender` says went wrong. An error that blames no other peer blames the sender.

    Bytes that are no error of ours give `PeerMisbehaved`.
    """
    try:
        return _from_fields(json.loads(data[:MAX_ERROR_BYTES]), sender)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return PeerMisbehaved(sender, "it ended with an error that cannot be read")


def _from_fields(fields: dict[str, Any], sender: str) -> ManyhandsError:
    code = _plain(fields["code"], 40)
    message = _plain(fields["message"], _MAX_MESSAGE_CHARS)
    hint = _plain(fields.get("hint", ""), _MAX_HINT_CHARS)
    blamed = _plain(fields.get("peer_id", ""), 64) or sender
    kind = BY_CODE.get(code)
    if kind is None:
        return PeerError(sender, f"{message} ({code})", hint=hint)
    if issubclass(kind, PeerBusy):
        depth = max(0, int(fields.get("queue_depth", 0)))
        return kind(blamed, message, queue_depth=depth, hint=hint)
    if issubclass(kind, LogNeeded):
        size = max(0, int(fields.get("size", 0)))
        return kind(blamed, message, size=size, hint=hint)
    if issubclass(kind, ConstraintBroken):
        return kind(blamed, message, constraint=_plain(fields.get("constraint", ""), 40), hint=hint)
    if issubclass(kind, InDebt):
        owed, limit = (max(0, int(fields.get(name, 0))) for name in ("owed_ncr", "limit_ncr"))
        return kind(blamed, message, owed_ncr=owed, limit_ncr=limit, hint=hint)
    if issubclass(kind, PeerError):
        return kind(blamed, message, hint=hint)
    if issubclass(kind, SwarmIncomplete):
        missing = [(int(start), int(stop)) for start, stop in fields["missing"][:_MAX_RUNS]]
        return _with_message(SwarmIncomplete(missing, hint=hint), message)
    if issubclass(kind, errors.ChainBroken):
        return _with_message(kind(()), message, hint)
    return kind(message, hint=hint)


def _plain(text: object, max_chars: int) -> str:
    """A stranger's words, fit for a terminal and a log."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:max_chars])


def _with_message(error: ManyhandsError, message: str, hint: str | None = None) -> ManyhandsError:
    error.args = (message,)
    error.hint = error.hint if hint is None else hint
    return error
