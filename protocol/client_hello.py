"""Whom a TLS client asks for: the server name in its first message, read and nothing else.

In: the first bytes of a connection, from anybody. Out: the name (RFC 6066 section 3), word that
more bytes are needed, or a refusal. A ClientHello is read as RFC 8446 sections 4.1.2, 4.2 and 5.1
have it: strictly, so that nobody can be shown one name here and another to the server behind, and
within bounds of bytes and records, so that a stranger costs little. The bytes stay as they came:
whoever splices passes them on.
"""

from protocol.errors import PeerMisbehaved

MAX_BYTES = 16 * 1024  # with the headers of records; today's browsers send 2 KiB
MAX_RECORDS = 8  # over which one hello may be spread
MAX_NAME_CHARS = 255
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_MAX_RECORD_BYTES = 1 << 14
_SERVER_NAME, _HOST_NAME = 0, 0


class BadHello(PeerMisbehaved):
    """These bytes do not begin a TLS connection that asks for somebody by name."""

    code = "bad_hello"

    def __init__(self, reason: str) -> None:
        super().__init__("", reason)


def server_name(data: bytes) -> str | None:
    """The name asked for, in lower case; None: the hello is not whole yet.

    Raises:
        BadHello: it is none, is too large, or names nobody.
    """
    hello = _hello(data)
    if hello is None:
        if len(data) >= MAX_BYTES:
            raise BadHello(f"a hello of more than {MAX_BYTES} bytes")
        return None
    reader = _Reader(hello)
    reader.skip(2 + 32)  # version and random
    if len(reader.vector(1)) > 32:
        raise BadHello("a session id has 32 bytes at most")
    suites = reader.vector(2)
    if not suites or len(suites) % 2:
        raise BadHello("cipher suites have two bytes each")
    if not reader.vector(1):
        raise BadHello("there is one way of compression at least: none")
    extensions = reader.vector(2)
    reader.require_end()
    return _name_in(extensions)


def _hello(data: bytes) -> bytes | None:
    """The body of the ClientHello in the records at the beginning; None: more is needed."""
    body, at, n_records = b"", 0, 0
    while True:
        if len(body) >= 4:
            if body[0] != _CLIENT_HELLO:
                raise BadHello("it does not begin with a ClientHello")
            size = 4 + int.from_bytes(body[1:4], "big")
            if size > MAX_BYTES:
                raise BadHello(f"a hello of {size} bytes")
            if len(body) >= size:
                return body[4:size]
        header = data[at : at + 5]
        _check_record(header, n_records)
        if len(header) < 5:
            return None
        size = int.from_bytes(header[3:5], "big")
        fragment = data[at + 5 : at + 5 + size]
        body += fragment
        if len(fragment) < size:
            # The part of a record that is here tells already what it is, and how much is to come.
            if body and body[0] != _CLIENT_HELLO:
                raise BadHello("it does not begin with a ClientHello")
            if len(body) < 4 or len(body) < 4 + int.from_bytes(body[1:4], "big"):
                return None
        at, n_records = at + 5 + size, n_records + 1


def _check_record(header: bytes, n_before: int) -> None:
    if header[:1] and header[0] != _HANDSHAKE:
        raise BadHello("this is no TLS handshake")
    if header[1:2] and header[1] != 3:
        raise BadHello("a record of an unknown version of TLS")
    if len(header) == 5 and not 0 < int.from_bytes(header[3:5], "big") <= _MAX_RECORD_BYTES:
        raise BadHello("a record of a size that none has")
    if header and n_before >= MAX_RECORDS:
        raise BadHello(f"a hello in more than {MAX_RECORDS} records")


def _name_in(extensions: bytes) -> str:
    reader, seen, name = _Reader(extensions), set(), ""
    while not reader.is_at_end:
        kind = reader.number(2)
        value = reader.vector(2)
        if kind in seen:
            raise BadHello("an extension twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            name = _host_name(value)
    if not name:
        raise BadHello("it asks for nobody by name")
    return name


def _host_name(value: bytes) -> str:
    outer = _Reader(value)
    names = _Reader(outer.vector(2))
    outer.require_end()
    if names.number(1) != _HOST_NAME:
        raise BadHello("a name of an unknown kind")
    raw = names.vector(2)
    names.require_end()  # RFC 6066: one name of each kind, and there is one kind
    if not 0 < len(raw) <= MAX_NAME_CHARS or not all(0x21 <= byte <= 0x7E for byte in raw):
        raise BadHello("a host name is a few printable characters")
    return raw.decode("ascii").lower()


class _Reader:
    """Numbers and vectors (RFC 8446 section 3.4) from bytes that must hold them."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._data)

    def skip(self, n_bytes: int) -> bytes:
        part = self._data[self._at : self._at + n_bytes]
        if len(part) < n_bytes:
            raise BadHello("a field ends beyond what holds it")
        self._at += n_bytes
        return part

    def number(self, n_bytes: int) -> int:
        return int.from_bytes(self.skip(n_bytes), "big")

    def vector(self, length_bytes: int) -> bytes:
        return self.skip(self.number(length_bytes))

    def require_end(self) -> None:
        if not self.is_at_end:
            raise BadHello("more bytes than its fields take")
