"""What a node serves of its model besides running it: small files, and weights for other nodes.

In: a manifest's digest, and a file's name or a range of a weights file. Out: bytes, which whoever
asked checks: nobody has to be trusted (DESIGN 5a.14). Small files are the manifest, the
configuration and the tokenizer; a client needs no more. Ranges of weights are for nodes: few at a
time, slowly while sessions run here, and not at all where the operator says so.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from protocol.canonical import decode
from protocol.errors import PeerBusy, PeerMisbehaved, PeerRefused
from protocol.files import BINARY, read_at
from protocol.identity import PeerId
from protocol.pieces import MAX_CALL_BYTES

METHOD = "file"
MANIFEST = "manifest"
AT_ONCE, WAITING = 2, 16
BUSY_BYTES_PER_S = 16 * 2**20  # while sessions run here


class SmallFiles:
    """The handler of the call `file`: [digest, name] in deterministic CBOR."""

    def __init__(self, digest: bytes, files: Mapping[str, bytes]) -> None:
        self._digest, self._files = digest, files

    async def handle(self, peer_id: PeerId, request: bytes) -> bytes:
        match decode(request):
            case [bytes(digest), str(name)]:
                pass
            case _:
                raise PeerMisbehaved(peer_id, "a file is asked for by digest and name")
        if digest != self._digest:
            raise PeerRefused("", "this node serves another model")
        if name not in self._files:
            raise PeerRefused("", f"the model has no small file {name[:80]!r}")
        return self._files[name]


@dataclass(frozen=True, slots=True)
class SharedFile:
    """A weights file, and which runs of its bytes are sound; the others are not here."""

    path: Path
    ranges: tuple[tuple[int, int], ...]

    def has(self, start: int, stop: int) -> bool:
        return any(low <= start and stop <= high for low, high in self.ranges)


class SharedWeights:
    """The handler of the call `weights`, see `protocol.pieces`."""

    def __init__(
        self, digest: bytes, files: Mapping[str, SharedFile], is_busy: Callable[[], bool]
    ) -> None:
        self._digest, self._files, self._is_busy = digest, files, is_busy
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._n_waiting = 0
        self.bytes_shared = 0

    async def handle(self, peer_id: PeerId, request: bytes) -> bytes:
        match decode(request):
            case [bytes(digest), str(name), int(start), int(length)] if (
                start >= 0 and 0 < length <= MAX_CALL_BYTES
            ):
                pass
            case _:
                raise PeerMisbehaved(peer_id, "weights are asked for by digest, file and range")
        if digest != self._digest:
            raise PeerRefused("", "this node serves another model")
        file = self._files.get(name)
        if file is None or not file.has(start, start + length):
            raise PeerRefused("", f"this node does not share bytes {start} on of {name[:80]!r}")
        if self._n_waiting >= WAITING:
            raise PeerBusy("", "many ask for weights", queue_depth=self._n_waiting)
        self._n_waiting += 1
        try:
            async with self._turns:
                return await self._read(file, start, length)
        finally:
            self._n_waiting -= 1

    async def _read(self, file: SharedFile, start: int, length: int) -> bytes:
        if self._is_busy():
            await asyncio.sleep(length / BUSY_BYTES_PER_S)
        try:
            data = await asyncio.to_thread(_read, file.path, start, length)
        except OSError as error:
            raise PeerRefused("", f"{file.path.name} cannot be read here now") from error
        if len(data) != length:
            raise PeerRefused("", f"{file.path.name} is shorter here than it was")
        self.bytes_shared += length
        return data


def _read(path: Path, start: int, length: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | BINARY)
    try:
        return read_at(descriptor, length, start)
    finally:
        os.close(descriptor)
