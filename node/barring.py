"""Whom a node does not hear, kept on disk: over restarts, and where its operator can change it.

In: the bans of a running node, and a file. Out: the file follows the bans, and a ban that somebody
takes out of the file ends: that is how `manyhands peers unban` reaches a node that runs. The
file is small and replaced whole; a damaged one costs bans, and no node its start.
"""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from protocol.bans import MAX_BANS, Ban, Bans
from protocol.errors import ManyhandsError
from protocol.identity import PeerId, public_key_from_peer_id

log = logging.getLogger(__name__)

SCHEMA = "manyhands/bans/v1"
LOOK_S = 1.0
MAX_BYTES = 1 << 20


def read_bans(path: Path) -> tuple[Ban, ...]:
    """What is in the file; nothing when it is not there, or no such file."""
    try:
        with path.open("rb") as file:
            held = json.loads(file.read(MAX_BYTES))
        return tuple(_read(each) for each in held["bans"][:MAX_BANS])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        log.warning("bans cannot be read", extra={"path": str(path), "reason": str(error)})
        return ()


def write_bans(path: Path, bans: Iterable[Ban]) -> None:
    """Replace the file."""
    held = [
        {"peer": ban.peer_id, "why": ban.why, "until_ms": ban.until_ms, "number": ban.number}
        for ban in bans
    ]
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps({"schema": SCHEMA, "bans": held}))
    os.replace(beside, path)


class Barring:
    """`run` it while the node is up. The bans of the file hold from the start on."""

    def __init__(self, bans: Bans, path: Path | None) -> None:
        """`path`: none keeps nothing."""
        self._bans, self._path = bans, path
        bans.restore(read_bans(path) if path else ())
        self._written = {ban.peer_id for ban in bans.now()}
        self._has_news = False
        bans.watch(self._changed)

    async def run(self) -> None:
        while self._path is not None:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Lift what was taken out of the file, then write down what is new."""
        if self._path is None:
            return
        there = {ban.peer_id for ban in read_bans(self._path)}
        held = {ban.peer_id for ban in self._bans.now()}
        for peer_id in (self._written & held) - there:
            log.info("a ban was lifted", extra={"peer": peer_id})
            self._bans.lift(peer_id)
        if not self._has_news:
            return
        self._has_news = False
        self._written = {ban.peer_id for ban in self._bans.now()}
        with contextlib.suppress(OSError):  # a full disk: they hold as long as this process
            write_bans(self._path, self._bans.now())

    def _changed(self) -> None:
        self._has_news = True


def _read(fields: Any) -> Ban:
    peer_id = PeerId(str(fields["peer"]))
    try:
        public_key_from_peer_id(peer_id)
    except ManyhandsError as error:
        raise ValueError(f"not a peer id: {peer_id[:80]!r}") from error
    return Ban(
        peer_id=peer_id,
        why=str(fields["why"]),
        until_ms=int(fields["until_ms"]),
        number=int(fields["number"]),
    )
