"""A peer in a process of its own, to be killed: `listen` echoes, `dial ADDRESS` opens `Test`."""

import asyncio
import sys

from protocol.address import Address
from protocol.transport import Service
from tests.protocol.transport.peers import echo, new_transport


async def main(role: str, *arguments: str) -> None:
    if role == "listen":
        listener = await new_transport().listen("127.0.0.1", 0, Service(streams={"Echo": echo}))
        print(listener.addresses[0], flush=True)
    else:
        connection = await new_transport().dial(Address.parse(arguments[0]))
        stream = await connection.open("Test")
        stream.send(b"alive")
        await stream.drain()
        print("open", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
