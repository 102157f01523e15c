"""Messages ⇄ bytes: the one file that knows both our types and protobuf's.

In: values of `messages.py`. Out: what a transport carries. Decoding a stranger's bytes either gives
a valid message or raises `PeerMisbehaved`; nothing else leaves this file.

A data message is `u32 header length, little-endian | DataHeader | rows`: tensors never ride in a
protobuf `bytes` field, which would copy them at every touch. A control message is a oneof whose
fields carry our field names, so one pair of converters serves them all.
"""

import struct
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar, get_origin

import numpy as np
from google.protobuf.message import DecodeError, Message

from protocol.asking import Extensions, Funding, Handover, PrefixNames, Sampling
from protocol.errors import PeerMisbehaved
from protocol.frames import Ack, Ask, DataMessage, Frame, Gone, RowGroup
from protocol.logprobs import PromptLogprobs
from protocol.messages import (
    Account,
    Close,
    Closed,
    Commit,
    Committed,
    Failure,
    Keep,
    Leaving,
    LinkDown,
    Pay,
    Progress,
    Raise,
    Raised,
    Reserve,
    Reserved,
    Resume,
    SessionId,
    Span,
    ToClient,
    ToHop,
    TokenEvent,
    Unpaid,
)
from protocol.packing import pack, unpack
from protocol.pb import hop_pb2 as pb

HEADER_LENGTH = struct.Struct("<I")
MAX_HEADER_BYTES = 1 << 20

T = TypeVar("T")

_TO_HOP: dict[str, type] = {
    "reserve": Reserve,
    "raise": Raise,
    "commit": Commit,
    "pay": Pay,
    "close": Close,
    "resume": Resume,
    "keep": Keep,
}
_TO_CLIENT: dict[str, type] = {
    "reserved": Reserved,
    "raised": Raised,
    "committed": Committed,
    "token": TokenEvent,
    "progress": Progress,
    "account": Account,
    "unpaid": Unpaid,
    "link_down": LinkDown,
    "failure": Failure,
    "closed": Closed,
    "leaving": Leaving,
    "prompt_logprobs": PromptLogprobs,
}
_NESTED: dict[type, type[Message]] = {
    Span: pb.Span,
    Sampling: pb.Sampling,
    Extensions: pb.Extensions,
    PrefixNames: pb.PrefixNames,
    Handover: pb.Handover,
    Funding: pb.Funding,
}
_FIELDS = {
    kind: tuple((field.name, field.type) for field in fields(kind))
    for kind in (*_TO_HOP.values(), *_TO_CLIENT.values(), *_NESTED)
}
_WIRE: dict[type, tuple[str, type[Message]]] = {
    kind: (name, getattr(pb, kind.__name__)) for name, kind in (_TO_HOP | _TO_CLIENT).items()
}


def _encode_fields(message: Any, wire: type[Message]) -> Message:
    values = {}
    for name, _ in _FIELDS[type(message)]:
        value = getattr(message, name)
        nested = _NESTED.get(type(value))
        if nested and not value:
            continue  # a part that says nothing
        values[name] = _encode_fields(value, nested) if nested else value
    return wire(**values)


def _decode_fields(kind: Callable[..., T], wire: Any) -> T:
    values: dict[str, Any] = {}
    for name, declared in _FIELDS[kind]:  # type: ignore[index]
        value = getattr(wire, name)
        if declared in _NESTED:
            value = _decode_fields(declared, value)
        elif isinstance(declared, str) or get_origin(declared) is tuple:
            value = tuple(value)
        values[name] = value
    return kind(**values)


def _control_to_bytes(envelope: type[Message], message: ToHop | ToClient) -> bytes:
    name, wire = _WIRE[type(message)]
    data: bytes = envelope(**{name: _encode_fields(message, wire)}).SerializeToString()
    return data


def _control_from_bytes(envelope: type[Message], kinds: dict[str, type], data: bytes) -> Any:
    try:
        parsed: Any = envelope.FromString(data)
        name = parsed.WhichOneof("message")
        if name is None:
            raise PeerMisbehaved("", "an empty or unknown control message")
        return _decode_fields(kinds[name], getattr(parsed, name))
    except (DecodeError, ValueError, TypeError) as error:
        raise PeerMisbehaved("", f"malformed control message: {error}") from error


def to_hop_bytes(message: ToHop) -> bytes:
    return _control_to_bytes(pb.ToHop, message)


def to_hop_message(data: bytes) -> ToHop:
    """Raises PeerMisbehaved when `data` is no valid message."""
    message: ToHop = _control_from_bytes(pb.ToHop, _TO_HOP, data)
    return message


def to_client_bytes(message: ToClient) -> bytes:
    return _control_to_bytes(pb.ToClient, message)


def to_client_message(data: bytes) -> ToClient:
    """Raises PeerMisbehaved when `data` is no valid message."""
    message: ToClient = _control_from_bytes(pb.ToClient, _TO_CLIENT, data)
    return message


def data_bytes(message: DataMessage, *, pack_width: int = 0) -> bytes:
    """One data message; the rows are copied once, into the result.

    pack_width: bytes of a value, to have a large frame packed; 0 leaves it as it is.
    """
    match message:
        case Frame(groups, row_bytes, body):
            packed = pack(body, pack_width)
            header = pb.DataHeader(
                groups=[
                    pb.RowGroup(
                        session=group.session,
                        epoch=group.epoch,
                        branch=group.branch,
                        step=group.step,
                        start=group.start,
                        rows=group.rows,
                        fork=group.fork,
                    )
                    for group in groups
                ],
                row_bytes=row_bytes,
                packed=pack_width if packed else 0,
            ).SerializeToString()
            return b"".join((HEADER_LENGTH.pack(len(header)), header, packed or body))
        case Ack(session, epoch, length, rewind, branch):
            ack = pb.Ack(session=session, epoch=epoch, length=length, rewind=rewind, branch=branch)
            header = pb.DataHeader(ack=ack).SerializeToString()
        case Ask(session, epoch):
            header = pb.DataHeader(ask=pb.Ask(session=session, epoch=epoch)).SerializeToString()
        case Gone(session):
            header = pb.DataHeader(gone=session).SerializeToString()
    return HEADER_LENGTH.pack(len(header)) + header


def data_message(data: bytes) -> DataMessage:
    """The message in `data`; a frame's body is a view of it, not a copy, unless it was packed.

    Raises:
        PeerMisbehaved: not a data message; the stream it came on should end.
    """
    try:
        (length,) = HEADER_LENGTH.unpack_from(data)
        if length > MAX_HEADER_BYTES or HEADER_LENGTH.size + length > len(data):
            raise PeerMisbehaved("", f"a header of {length} bytes in a message of {len(data)}")
        body_at = HEADER_LENGTH.size + length
        header = pb.DataHeader.FromString(data[HEADER_LENGTH.size : body_at])
    except (struct.error, DecodeError) as error:
        raise PeerMisbehaved("", f"malformed data message: {error}") from error
    if header.groups:
        groups, body = tuple(map(_row_group, header.groups)), memoryview(data)[body_at:]
        if header.packed:
            n_bytes = sum(group.rows for group in groups) * header.row_bytes
            body = unpack(body, header.packed, n_bytes)
        return Frame(groups, header.row_bytes, body)
    if body_at != len(data):
        raise PeerMisbehaved("", "rows without a row group")
    if header.HasField("ack"):
        ack = header.ack
        return Ack(SessionId(ack.session), ack.epoch, ack.length, ack.rewind, ack.branch)
    if header.HasField("ask"):
        return Ask(SessionId(header.ask.session), header.ask.epoch)
    return Gone(SessionId(header.gone))


def _row_group(g: Any) -> RowGroup:
    if g.parents:
        raise PeerMisbehaved("", "tree drafts were not negotiated")
    return RowGroup(SessionId(g.session), g.epoch, g.branch, g.step, g.start, g.rows, g.fork)


def ids_to_bytes(ids: "np.ndarray[Any, Any] | list[int] | tuple[int, ...]") -> bytes:
    """Token ids as they travel: unsigned 32 bit, little-endian."""
    return np.asarray(ids, dtype="<u4").tobytes()


def ids_from_bytes(data: bytes | memoryview) -> list[int]:
    ids: list[int] = np.frombuffer(data, dtype="<u4").tolist()
    return ids
