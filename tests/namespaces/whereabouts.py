"""Run on a host of a lab: a peer that listens, dials back for others, and finds out where it is.

`python -m tests.namespaces.whereabouts N HOST [--ask N@HOST]… [--map-port]`

Peer N has the key of that number, so that all know each other's ids beforehand. It loads no model:
what is under test is the way to it. It prints what it would announce and its status, each time that
changes, as a line of JSON; until it is ended.
"""

import asyncio
import contextlib
import json
import signal

import click

from node.ports import PortMapper
from node.reaching import ReachTiming
from node.whereabouts import Ways, Whereabouts
from protocol.address import Address
from protocol.identity import Identity
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.grpc import GrpcTransport
from protocol.transport.one_port import OnePort
from tests.announcing import announce, key_of, peer_of

PORT = 31400
TIMING = ReachTiming(start_s=0.5, again_s=0.5, glance_s=0.2)


@click.command()
@click.argument("n", type=int)
@click.argument("host")
@click.option("--ask", "others", multiple=True)
@click.option("--map-port", is_flag=True)
def main(n: int, host: str, others: tuple[str, ...], map_port: bool) -> None:
    asyncio.run(_run(n, host, others, map_port))


async def _run(n: int, host: str, others: tuple[str, ...], map_port: bool) -> None:
    peers = []
    for number, _, at in (other.partition("@") for other in others):
        peer = int(number)
        peers.append(announce(peer, addresses=(Address(at, PORT, peer_of(peer)),)))
    transport = GrpcTransport(Identity(key_of(n)), OPEN_SWARM_ID)
    mapper = PortMapper() if map_port else None
    ways = Ways(one_port=OnePort, mapper=mapper, timing=TIMING)
    place = Whereabouts(transport, lambda: peers, lambda: _print(place), ways)
    listener = await transport.listen(host, PORT, Service(seen_calls=place.seen_calls))
    place.listening(listener)
    _print(place)
    running = asyncio.create_task(place.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await listener.aclose(grace_s=0)


def _print(place: Whereabouts) -> None:
    said = {
        "addresses": [address.target for address in place.addresses],
        "n_confirmed": place.reach.n_confirmed,
        **place.status(),
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
