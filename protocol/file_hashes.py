"""SHA-256 of large files and of the tensors in them, remembered until a file changes.

In: a path, and a directory to remember in. Out: the hash of its bytes, and in the same reading
pass those of its tensors. Whether a file changed is told by its stamp (`files.py`).
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.files import stamp, write_whole
from protocol.tensor_table import TensorEntry

CHUNK_BYTES = 4 * 2**20

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class FileHashes:
    """A file's SHA-256, and its tensors' by name."""

    sha256: bytes
    tensors: Mapping[str, bytes]


def hash_file(path: Path, *, cache: Path | None = None, progress: Progress | None = None) -> bytes:
    """The file's SHA-256, from `cache` when the file has not changed since.

    `progress` is called with the fraction read. Errors of the file system pass to the caller;
    those of the cache only cost time.
    """
    return hash_tensors(path, {}, cache=cache, progress=progress).sha256


def hash_tensors(
    path: Path,
    table: Mapping[str, TensorEntry],
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> FileHashes:
    """As `hash_file`, with the hashes of the tensors that `table` finds in the file."""
    where, before = str(path.resolve()), stamp(path)
    seen = [where, *before]
    note = None
    if cache is not None:
        note = cache / f"{hashlib.sha256(where.encode()).hexdigest()[:32]}.json"
        known = _recall(note, seen)
        if known is not None and table.keys() <= known.tensors.keys():
            return known
    hashes = _read(path, before[0], table, progress, chunk_bytes)
    if note is not None and stamp(path) == before:
        tensors = {name: digest.hex() for name, digest in hashes.tensors.items()}
        _remember(note, [*seen, hashes.sha256.hex(), tensors])
    return hashes


def _read(
    path: Path,
    size: int,
    table: Mapping[str, TensorEntry],
    progress: Progress | None,
    chunk_bytes: int,
) -> FileHashes:
    whole, done = hashlib.sha256(), 0
    tensors = {name: hashlib.sha256() for name in table}
    waiting = sorted(table.items(), key=lambda item: item[1].start, reverse=True)
    begun: list[tuple[str, TensorEntry]] = []
    with path.open("rb") as file:
        while chunk := file.read(chunk_bytes):
            whole.update(chunk)
            view, stop = memoryview(chunk), done + len(chunk)
            while waiting and waiting[-1][1].start < stop:
                begun.append(waiting.pop())
            for name, entry in begun:
                tensors[name].update(view[max(0, entry.start - done) : max(0, entry.stop - done)])
            begun = [(name, entry) for name, entry in begun if entry.stop > stop]
            done = stop
            if progress:
                progress(min(1.0, done / max(size, 1)))
    return FileHashes(whole.digest(), {name: digest.digest() for name, digest in tensors.items()})


def _recall(note: Path, seen: list[object]) -> FileHashes | None:
    try:
        *known, sha256, tensors = json.loads(note.read_bytes())
        if known != seen or len(sha256) != 64:
            return None
        return FileHashes(bytes.fromhex(sha256), _from_hex(tensors))
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _from_hex(tensors: Mapping[str, Any]) -> dict[str, bytes]:
    return {name: bytes.fromhex(digest) for name, digest in tensors.items()}


def _remember(note: Path, fields: list[object]) -> None:
    with suppress(OSError):
        write_whole(note, json.dumps(fields).encode())
