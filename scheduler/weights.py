"""A span's weights from peers that serve the same model, checked tensor by tensor.

In: a model's hosts, its manifest, and pieces of its files. Out: every piece, handed to the caller
in runs of bytes, and a word when all of it has proved sound. Each host is asked for one piece at a
time, all hosts at once; one that serves other bytes than were agreed on is named and not asked
again, and the piece comes from another.

A header is checked against the manifest, whose digest covers where tensors lie. What a tensor
hashes to is no part of the digest: it is what most of the asked hosts say (`agreed_hashes`), and
a tensor about which they are divided is not taken from peers at all.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from protocol.announcements import Announcement
from protocol.canonical import encode
from protocol.errors import (
    BadModel,
    IntegrityError,
    ManyhandsError,
    PeerBusy,
    PeerMisbehaved,
    PeerRefused,
)
from protocol.identity import PeerId
from protocol.manifest import Manifest
from protocol.pieces import METHOD, PIECE_BYTES, Piece, PieceHasher, check_header
from protocol.transport import Connection, Transport
from scheduler.thin import connected, fetch_manifest

log = logging.getLogger(__name__)

ASKED_FOR_HASHES, ENOUGH_WORDS = 8, 2
CALL_TIMEOUT_S = 60.0
BUSY_WAIT_S, MAX_BUSY = 0.5, 20


@dataclass(frozen=True, slots=True)
class Agreed:
    """What hosts say that tensors hash to. `alone`: one host's word; `disputed`: no majority."""

    hashes: Mapping[str, bytes]
    alone: frozenset[str]
    disputed: frozenset[str]


async def agreed_hashes(
    transport: Transport, hosts: Sequence[Announcement], digest: bytes, wanted: Iterable[str]
) -> Agreed:
    """Ask hosts for their manifests until each tensor has two words for it, or nobody is left."""
    words: dict[str, Counter[bytes]] = {name: Counter() for name in wanted}
    for host in hosts[:ASKED_FOR_HASHES]:
        if all(said.total() >= ENOUGH_WORDS for said in words.values()):
            break
        try:
            async with connected(transport, host) as connection:
                manifest = await fetch_manifest(connection, digest)
        except ManyhandsError as error:
            log.info("no manifest", extra={"peer": host.peer_id, "error": str(error)})
            continue
        for name, said in words.items():
            if name in manifest.tensors and manifest.tensors[name].sha256:
                said[manifest.tensors[name].sha256] += 1
    return _settle(words)


def _settle(words: Mapping[str, Counter[bytes]]) -> Agreed:
    hashes, alone, disputed = {}, set(), set()
    for name, said in words.items():
        match said.most_common(2):
            case []:
                continue
            case [(_, first), (_, second)] if first == second:
                disputed.add(name)
            case [(digest, _), *_]:
                hashes[name] = digest
                if said.total() == 1:
                    alone.add(name)
    return Agreed(hashes, frozenset(alone), frozenset(disputed))


@dataclass(slots=True, kw_only=True)
class Fetch:
    """One run over `pieces`; `run` it once.

    keep: given a piece, a position and bytes, in order from the piece's start; begun again from
        there when a host failed. done: given a piece and its tensors' hashes once it is sound.
    """

    transport: Transport
    manifest: Manifest
    hashes: Mapping[str, bytes]
    pieces: Sequence[Piece]
    keep: Callable[[Piece, int, bytes], None]
    done: Callable[[Piece, Mapping[str, bytes]], None]
    call_bytes: int = PIECE_BYTES
    blamed: dict[PeerId, str] = field(default_factory=dict)  # why each was not asked again
    _waiting: list[Piece] = field(default_factory=list)
    _n_under_way: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, hosts: Sequence[Announcement]) -> None:
        """Fetch every piece from some host.

        Raises:
            IntegrityError: nobody served some piece as it should be; the message blames.
            PeerRefused: no host that was reached shares some piece.
        """
        self._waiting = list(reversed(self.pieces))
        async with asyncio.TaskGroup() as tasks:
            for host in hosts:
                tasks.create_task(self._ask(host), name=f"weights from {host.peer_id}")
        if self._waiting:
            raise self._failure(len(hosts))

    def _failure(self, n_hosts: int) -> ManyhandsError:
        piece = self._waiting[-1]
        what = piece.tensors[0] if piece.tensors else f"the header of {piece.file}"
        why = "; ".join(f"{peer}: {reason}" for peer, reason in self.blamed.items())
        if any("other bytes" in reason for reason in self.blamed.values()):
            return IntegrityError(
                f"no peer served {what} as it should be: {why}",
                hint="fetch from the hub, or join peers that you trust",
            )
        return PeerRefused(
            "",
            f"none of {n_hosts} peers shares {what}" + (f" ({why})" if why else ""),
            hint="join a node that has it all, or name the model as the hub does: ORG/NAME",
        )

    async def _ask(self, host: Announcement) -> None:
        """Fetch from one host until nothing is left that it may have."""
        try:
            async with connected(self.transport, host) as connection:
                await self._take_from(connection)
        except ManyhandsError as error:
            self.blamed[host.peer_id] = str(error)
            log.warning("weights refused", extra={"peer": host.peer_id, "why": str(error)})

    async def _take_from(self, connection: Connection) -> None:
        refused: set[Piece] = set()
        while (piece := await self._next(refused)) is not None:
            try:
                await self._fetch(connection, piece)
            except PeerRefused:
                refused.add(piece)
                self._put_back(piece)
            except BaseException:
                self._put_back(piece)
                raise
            else:
                self._n_under_way -= 1
                self._wake()

    async def _next(self, refused: set[Piece]) -> Piece | None:
        """A piece this host has not refused; waits for those that others may yet give back."""
        while True:
            for piece in reversed(self._waiting):
                if piece not in refused:
                    self._waiting.remove(piece)
                    self._n_under_way += 1
                    return piece
            if not self._n_under_way:
                return None
            changed = self._changed
            await changed.wait()

    def _put_back(self, piece: Piece) -> None:
        self._waiting.append(piece)
        self._n_under_way -= 1
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _fetch(self, connection: Connection, piece: Piece) -> None:
        hasher, header, at = PieceHasher(self.manifest, piece), b"", piece.start
        while at < piece.stop:
            data = await self._call(connection, piece, at, min(self.call_bytes, piece.stop - at))
            self.keep(piece, at, data)
            hasher.update(data)
            header += data if piece.is_header else b""
            at += len(data)
        found = hasher.digests()
        for name, digest in found.items():
            if self.hashes.get(name) != digest:
                raise PeerMisbehaved(connection.peer_id, f"it served other bytes as {name}")
        if piece.is_header:
            try:
                check_header(self.manifest, piece.file, header)
            except BadModel as error:
                why = f"it served other bytes as the header of {piece.file}"
                raise PeerMisbehaved(connection.peer_id, why) from error
        self.done(piece, found)

    async def _call(self, connection: Connection, piece: Piece, start: int, length: int) -> bytes:
        asked = encode([self.manifest.digest, piece.file, start, length])
        for _ in range(MAX_BUSY):
            try:
                data = await connection.call(METHOD, asked, timeout_s=CALL_TIMEOUT_S)
            except PeerBusy:
                await asyncio.sleep(BUSY_WAIT_S)
                continue
            if len(data) != length:
                raise PeerMisbehaved(connection.peer_id, "it served other bytes than were asked")
            return data
        raise PeerBusy(connection.peer_id, "it was busy for too long")
