"""Spend logs over HTTP, as plain values: what C2SP tlog-tiles asks of a log's URL, for many logs.

In: a request's method and path. Out: status, type and body of the answer. The log of an account is
at `/<account>/`, in hexadecimal: `/<account>/checkpoint`, `/<account>/tile/…`.
"""

import re

from ledger.spend_shelf import CHECKPOINT, Shelf
from ledger.witness_http import PLAIN, Answer
from protocol.errors import UsageError

BYTES = "application/octet-stream"
FOR_EVER, NOW = "public, max-age=31536000, immutable", "no-cache"
_PATH = re.compile(r"/([0-9a-f]{64})/([0-9a-z./]{1,80})")


def answer(shelf: Shelf, method: str, path: str) -> Answer:
    """To one request. Refusals are answers; only what ails this machine is raised."""
    if method not in ("GET", "HEAD"):
        return Answer(405, PLAIN, b"logs are read with GET\n")
    if (match := _PATH.fullmatch(path)) is None:
        return Answer(404, PLAIN, b"logs are at /ACCOUNT/checkpoint and /ACCOUNT/tile/...\n")
    try:
        found = shelf.fetch(bytes.fromhex(match[1]), match[2])
    except UsageError as error:
        return Answer(404, PLAIN, f"{error}\n".encode())
    return Answer(200, PLAIN if match[2] == CHECKPOINT else BYTES, found)


def caching(path: str) -> str:
    """How long others may keep what is there: whole tiles never change."""
    return FOR_EVER if "/tile/" in path and ".p/" not in path else NOW
