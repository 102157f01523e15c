"""Where a home finds its swarm another time: `membership/addresses`, a line for each.

In: who was reached where, who was not, and what stood there before. Out: addresses of at most eight
peers, an address of each before a second one of any, the newest acquaintance first. Only what
was dialled and answered comes in: a word about others, which any member can spread, does not. When
there are too many, those who did not answer go first, then those in the middle: so many whom the
home knows longest stay, whoever answers besides. Who holds many certificates cannot push them out.
"""

from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

from manyhands.private_files import write_whole
from protocol.address import Address
from protocol.errors import ManyhandsError
from protocol.identity import PeerId
from protocol.path_book import Met

NAME = "addresses"
MAX_PEERS, N_OLDEST = 8, 3
MAX_EACH = 2  # addresses of one peer: of a network at home, and of the world


def read(place: Path) -> tuple[Address, ...]:
    """What stands in this directory; lines that a disk or a later version spoiled are passed over.

    What cannot be read is as if it were not there: the swarm's policy may name members as well.
    """
    found: list[Address] = []
    with suppress(OSError):
        for line in (place / NAME).read_bytes().decode(errors="replace").splitlines():
            with suppress(ManyhandsError, ValueError):
                found.append(Address.parse(line))
    return tuple(found)


def write(place: Path, addresses: Sequence[Address]) -> None:
    """
    Raises:
        ConfigError: it cannot be written.
    """
    write_whole(place / NAME, "".join(f"{address}\n" for address in addresses).encode())


def chosen(met: Met, before: Sequence[Address]) -> tuple[Address, ...]:
    """What to write in place of `before`, now that these were met."""
    known = {address.peer_id for address in before}
    new = [address for address in met.reached if address.peer_id not in known]
    peers = list(dict.fromkeys(address.peer_id for address in (*new, *before)))
    silent = [peer for peer in peers if peer in met.silent]
    answering = [peer for peer in peers if peer not in met.silent]
    if len(answering) > MAX_PEERS:
        answering = [*answering[: MAX_PEERS - N_OLDEST], *answering[-N_OLDEST:]]
    staying = {*answering, *silent[::-1][: MAX_PEERS - len(answering)]}
    every = dict.fromkeys((*met.reached, *before))
    columns = [_of(peer, [*every]) for peer in peers if peer in staying]
    return tuple(each for rank in zip_longest(*columns) for each in rank if each is not None)


def _of(peer: PeerId, addresses: Sequence[Address]) -> list[Address]:
    """Its addresses that are kept: the first one, and one of the other kind."""
    first, *others = [address for address in addresses if address.peer_id == peer]
    others.sort(key=lambda each: each.is_far == first.is_far)  # stable
    return [first, *others][:MAX_EACH]
