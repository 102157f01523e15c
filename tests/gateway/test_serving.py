"""The socket: who says nothing is shown the door, and an address in use is said in words."""

import asyncio
import gc
import weakref

import pytest

from manyhands.gateway import serving
from protocol.errors import ConfigError


async def hello(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def test_a_head_that_never_ends_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(serving, "HEAD_S", 0.1)
    async with serving.listening(hello, "127.0.0.1", 0) as port:
        slow, slow_writer = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        slow_writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n")
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")

        closed = await asyncio.wait_for(slow.read(), 5)
        answered = await asyncio.wait_for(reader.read(1000), 5)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")  # who has asked may take their time
        again = await asyncio.wait_for(reader.read(1000), 5)
        writer.close()

    assert closed == b""
    assert answered.startswith(b"HTTP/1.1 200")
    assert again.startswith(b"HTTP/1.1 200")


async def test_a_later_head_that_never_ends_is_not_waited_for_either(monkeypatch):
    monkeypatch.setattr(serving, "HEAD_S", 0.1)
    async with serving.listening(hello, "127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        answered = await asyncio.wait_for(reader.readuntil(b"hello"), 5)
        writer.write(b"G")

        closed = await asyncio.wait_for(reader.read(), 5)

    assert answered.startswith(b"HTTP/1.1 200")
    assert closed in (b"", b"\r\n0\r\n\r\n")


async def test_nothing_is_kept_of_a_caller_who_has_gone():
    asked = []

    async def watched(scope, receive, send) -> None:
        asked.append(weakref.ref(receive.__self__))  # the connection holds it, as it is its last
        await hello(scope, receive, send)

    async with serving.listening(watched, "127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"hello"), 5)
        writer.close()

        async with asyncio.timeout(serving.HEAD_S / 2):
            while asked[0]() is not None:
                await asyncio.sleep(0.01)
                gc.collect()

    assert len(asked) == 1


async def test_a_port_in_use_is_a_mistake_of_whoever_starts_it():
    async with serving.listening(hello, "127.0.0.1", 0) as port:
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1") as refused:
            async with serving.listening(hello, "127.0.0.1", port):
                pass

    assert "--port" in refused.value.hint
