"""SHA-256 of large files, remembered until a file changes.

In: a path, and a directory to remember in. Out: the hash of its bytes. A file counts as unchanged
while its size, modification time and inode are; whoever can forge these can also write the cache.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

CHUNK_BYTES = 4 * 2**20


def hash_file(
    path: Path, *, cache: Path | None = None, progress: Callable[[float], None] | None = None
) -> bytes:
    """The file's SHA-256, from `cache` when the file has not changed since.

    `progress` is called with the fraction read. Errors of the file system pass to the caller;
    those of the cache only cost time.
    """
    status = path.stat()
    where = str(path.resolve())
    seen = [where, status.st_size, status.st_mtime_ns, status.st_ino]
    note = None
    if cache is not None:
        note = cache / f"{hashlib.sha256(where.encode()).hexdigest()[:32]}.json"
        known = _recall(note, seen)
        if known is not None:
            return known
    digest = _read(path, status.st_size, progress)
    if note is not None and path.stat().st_mtime_ns == status.st_mtime_ns:
        _remember(note, [*seen, digest.hex()])
    return digest


def _read(path: Path, size: int, progress: Callable[[float], None] | None) -> bytes:
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            if progress:
                progress(min(1.0, done / max(size, 1)))
    return digest.digest()


def _recall(note: Path, seen: list[object]) -> bytes | None:
    try:
        *known, digest = json.loads(note.read_bytes())
        return bytes.fromhex(digest) if known == seen and len(digest) == 64 else None
    except (OSError, ValueError, TypeError):
        return None


def _remember(note: Path, fields: list[object]) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        fresh = note.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(fields))
        fresh.replace(note)  # whole or not at all
    except OSError:
        return
