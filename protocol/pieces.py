"""A span's weights in pieces that can be fetched, checked and kept one by one.

In: a manifest, and the names of the tensors that are wanted. Out: runs of bytes in the model's
files: each file's header, and whole tensors that lie next to each other. A `PieceHasher` hashes a
piece's tensors while its bytes come in. Who is asked for them is left to others; peers answer the
call `weights`, a request of [manifest digest, file, start, length] in deterministic CBOR.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from protocol.errors import BadModel
from protocol.manifest import Manifest
from protocol.tensor_table import parse_table

METHOD = "weights"
MAX_CALL_BYTES = 8 * 2**20
PIECE_BYTES = 4 * 2**20  # small tensors are fetched together up to this


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes `[start, stop)` of a weights file: these tensors one after the other, or its header."""

    file: str
    start: int
    stop: int
    tensors: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def is_header(self) -> bool:
        return self.start == 0


def cut_pieces(
    manifest: Manifest, wanted: Collection[str], *, piece_bytes: int = PIECE_BYTES
) -> tuple[Piece, ...]:
    """What to fetch for the tensors `wanted`, in the order in which it lies."""
    pieces: list[Piece] = []
    for file, names in sorted(_by_file(manifest, wanted).items()):
        pieces.append(Piece(file, 0, header_stop(manifest, file)))
        run: list[str] = []
        start = stop = 0
        for name in names:
            entry = manifest.tensors[name].entry
            if run and (entry.start != stop or entry.stop - start > piece_bytes):
                pieces.append(Piece(file, start, stop, tuple(run)))
                run = []
            if not run:
                start = entry.start
            run.append(name)
            stop = entry.stop
        pieces.append(Piece(file, start, stop, tuple(run)))
    return tuple(piece for piece in pieces if len(piece))


def header_stop(manifest: Manifest, file: str) -> int:
    """Where the tensors of a weights file begin."""
    places = manifest.tensors.values()
    return min(place.entry.start for place in places if place.file == file)


def check_header(manifest: Manifest, file: str, data: bytes) -> None:
    """Return if `data` is a header that places the tensors of `file` as the manifest does.

    Raises:
        BadModel: it places others, or elsewhere.
    """
    size = manifest.file(file).n_bytes
    said = parse_table(file, size, data[8:])
    known = {name: place.entry for name, place in manifest.tensors.items() if place.file == file}
    if int.from_bytes(data[:8], "little") != len(data) - 8 or said != known:
        raise BadModel(f"the header of {file} is not the one the manifest tells of")


class PieceHasher:
    """Hashes the tensors of a piece, fed its bytes in order."""

    def __init__(self, manifest: Manifest, piece: Piece) -> None:
        self._at = piece.start
        self._entries = {name: manifest.tensors[name].entry for name in piece.tensors}
        self._hashes = {name: hashlib.sha256() for name in piece.tensors}

    def update(self, data: bytes) -> None:
        view, start = memoryview(data), self._at
        for name, entry in self._entries.items():
            low, high = max(0, entry.start - start), max(0, entry.stop - start)
            self._hashes[name].update(view[low:high])
        self._at += len(data)

    def digests(self) -> dict[str, bytes]:
        return {name: digest.digest() for name, digest in self._hashes.items()}


def _by_file(manifest: Manifest, wanted: Iterable[str]) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for name in sorted(wanted, key=lambda name: manifest.tensors[name].entry.start):
        files.setdefault(manifest.tensors[name].file, []).append(name)
    return files
