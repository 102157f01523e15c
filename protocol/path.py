"""How bytes get from one peer to another: the ways there are, best first.

What was measured on one says nothing about another: whoever keeps numbers of a peer keeps them by
path.
"""

from enum import StrEnum


class Path(StrEnum):
    """The order is the order in which they are tried."""

    DIRECT = "direct"  # its own address
    RELAYED = "relayed"  # a relay splices two TCP connections, by the name the caller asks for
    PUNCHED = "punched"  # inside a libp2p stream, on a connection punched through both routers
    CIRCUIT = "circuit"  # inside a libp2p stream, over a circuit of libp2p's own relay

    @property
    def rank(self) -> int:
        """Lower is better."""
        return list(Path).index(self)

    @property
    def is_carried(self) -> bool:
        """Whether somebody else's machine carries the bytes."""
        return self in (Path.RELAYED, Path.CIRCUIT)
