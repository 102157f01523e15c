"""Who brought connections that come from this machine: a relay, or a peer through a tunnel.

In: the local end of a connection of this process to its own listener, and for whom it was made.
Out: the same, while it stands. As the listener sees them, they all come from one address; counted
by it, strangers at one relay would use up what a whole address may have, and crowd out who comes by
another relay, and programs of this machine. From any thread.
"""

from collections.abc import Callable

Endpoint = tuple[str, int]

_BROUGHT: dict[Endpoint, str] = {}  # all of a process: so are the sockets that listeners look at


def brought(by: str, endpoint: Endpoint) -> Callable[[], None]:
    """The connection whose local end is there is one of `by`; until the result is called."""
    _BROUGHT[endpoint] = by

    def over() -> None:
        _BROUGHT.pop(endpoint, None)

    return over


def brought_by(endpoint: Endpoint) -> str:
    """Empty: it comes from the address that it seems to come from."""
    return _BROUGHT.get(endpoint, "")
