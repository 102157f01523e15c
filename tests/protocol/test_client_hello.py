"""The one thing a relay reads of a stranger, and what it makes of all else."""

import ssl

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.client_hello import MAX_BYTES, MAX_RECORDS, BadHello, server_name

NAMES = st.from_regex(r"[a-z0-9]{1,60}\.peer", fullmatch=True)


def hello_for(name: str | None) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sent = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    return sent.read()


HELLO = hello_for("12d3koo.peer")


def in_records(hello: bytes, sizes: list[int]) -> bytes:
    """The same message in other records."""
    message, data = hello[5:], b""
    for size in sizes:
        part, message = message[:size], message[size:]
        data += b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part if part else b""
    return data + (b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message if message else b"")


@given(name=NAMES)
@settings(max_examples=25)
def test_whoever_openssl_asks_for_is_found(name):
    assert server_name(hello_for(name)) == name


@given(size=st.integers(0, len(HELLO) - 1))
def test_a_hello_that_is_not_whole_yet_is_waited_for(size):
    assert server_name(HELLO[:size]) is None


@given(sizes=st.lists(st.integers(1, 300), max_size=MAX_RECORDS - 1), rest=st.binary(max_size=50))
def test_records_do_not_matter_nor_what_follows(sizes, rest):
    assert server_name(in_records(HELLO, sizes) + rest) == "12d3koo.peer"


def test_a_hello_in_many_small_records_is_refused_however_small_they_are():
    with pytest.raises(BadHello, match="records"):
        server_name(in_records(HELLO, [1] * (MAX_RECORDS + 1)))


def test_a_hello_that_asks_for_nobody_is_refused():
    with pytest.raises(BadHello, match="nobody by name"):
        server_name(hello_for(None))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "no TLS"),
        (b"\x16\x02", "unknown version"),
        (b"\x16\x03\x01\x00\x00", "size"),
        (b"\x16\x03\x01\xff\xff", "size"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "ClientHello"),
        (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", "a hello of"),
        (
            b"\x16\x03\x01\x40\x00" + b"\x01\x00\x3f\xfc" + bytes(MAX_BYTES),
            "a hello|a field|suites",
        ),
    ],
)
def test_what_is_no_hello_is_refused_at_once(data, why):
    with pytest.raises(BadHello, match=why):
        server_name(data)


def test_two_names_are_one_too_many():
    name = b"12d3koo.peer"
    inner = b"\x00" + len(name).to_bytes(2, "big") + name
    value = len(inner).to_bytes(2, "big") + inner
    extension = b"\x00\x00" + len(value).to_bytes(2, "big") + value
    begin = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"

    def hello(extensions: bytes) -> bytes:
        return _message(begin + len(extensions).to_bytes(2, "big") + extensions)

    assert server_name(hello(extension)) == name.decode()
    with pytest.raises(BadHello, match="twice"):
        server_name(hello(extension * 2))
    two = (2 * len(inner)).to_bytes(2, "big") + 2 * inner
    with pytest.raises(BadHello, match="more bytes"):
        server_name(hello(b"\x00\x00" + len(two).to_bytes(2, "big") + two))


@given(data=st.binary(max_size=200))
@example(data=b"\x16\x03\x01")
@settings(max_examples=400)
def test_any_bytes_give_a_name_a_refusal_or_patience(data):
    _try(data)
    _try(b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data)
    _try(_message(data))


@given(
    edits=st.lists(st.tuples(st.integers(0, len(HELLO) - 1), st.integers(0, 255)), max_size=8),
    stop=st.integers(0, len(HELLO)),
)
@settings(max_examples=400)
def test_a_damaged_hello_does_no_harm(edits, stop):
    data = bytearray(HELLO)
    for at, byte in edits:
        data[at] = byte

    _try(bytes(data[:stop]))
    _try(bytes(data))


def _message(body: bytes) -> bytes:
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def _try(data: bytes) -> None:
    try:
        name = server_name(data)
    except BadHello:
        return
    assert name is None or 0 < len(name) <= 255
