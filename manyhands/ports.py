"""The ports that `serve` listens on: whether they can be had is known before anything is loaded.

In: what a person asked for. Out: a complaint that names the port, or one that is free.
"""

import os
import socket

from protocol.transport.reach import why_not_listening

USUAL_PORT = 31400


def check_port(listen: tuple[str, int] | None) -> None:
    """Return if this port can be had, or none was named.

    Raises:
        ConfigError: it cannot.
    """
    if listen is not None and not _is_free(*listen):
        raise why_not_listening(*listen)


def usual_or_any_port() -> int:
    return USUAL_PORT if _is_free("0.0.0.0", USUAL_PORT) else 0


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        if os.name == "posix":  # elsewhere it would take a port that somebody listens on
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
            trial.listen()
        except OSError:
            return False
    return True
