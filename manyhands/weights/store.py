"""What is on this machine of a model that was not published as a directory here.

In: a manifest, pieces of weights files as they arrive. Out: a directory that the engine reads like
any other checkpoint: every weights file has its full length, and holes where nothing was fetched
(they take no room on disk). `fetched.json` says which bytes are here and what the tensors among
them hash to; nothing else may be loaded, and what was loaded once is checked again when a file
looks touched. One process at a time fetches; a cut costs what was written since the last save.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from manyhands.weights.ranges import Range, Ranges, gaps, merged, without
from protocol.describing import MANIFEST_FILE
from protocol.errors import BadModel, ConfigError, IntegrityError, OutOfMemory
from protocol.file_lock import lock
from protocol.files import BINARY, Stamp, stamp, stamp_or_none, write_at, write_whole
from protocol.manifest import Manifest
from protocol.pieces import Piece, PieceHasher, header_stop

SCHEMA = "manyhands/fetched/v1"
RECORD, LOCK = "fetched.json", ".lock"
SAVE_EVERY_BYTES = 64 * 2**20
READ_BYTES = 4 * 2**20


@dataclass(slots=True)
class Store:
    """A model's place in the cache. Open it with `Store.at`."""

    place: Path
    manifest: Manifest
    ranges: dict[str, Ranges] = field(default_factory=dict)  # by file
    hashes: dict[str, bytes] = field(default_factory=dict)  # of the tensors that are here
    sources: dict[str, str] = field(default_factory=dict)  # whose word a tensor's hash is
    _seen: dict[str, Stamp] = field(default_factory=dict)

    @classmethod
    def at(cls, place: Path, manifest: Manifest) -> "Store":
        """The store in `place`, with what an earlier run fetched."""
        store = cls(place, manifest)
        store.reload()
        return store

    def reload(self) -> None:
        """Read the record again: another process may have fetched."""
        try:
            record = json.loads((self.place / RECORD).read_bytes())
            assert record["schema"] == SCHEMA
            self.ranges = {
                str(file): merged((int(a), int(b)) for a, b in ranges)
                for file, ranges in record["ranges"].items()
            }
            self.hashes = {str(n): bytes.fromhex(h) for n, h in record["hashes"].items()}
            self.sources = {str(n): str(s) for n, s in record["sources"].items()}
            seen = record["seen"].items()
            self._seen = {str(f): (int(a), int(b), int(c)) for f, (a, b, c) in seen}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
            self.ranges, self.hashes, self.sources, self._seen = {}, {}, {}, {}

    def save(self) -> None:
        """Whole or not at all."""
        for file in self.ranges:
            with suppress(OSError):
                self._seen[file] = stamp(self.place / file)
        record = {
            "schema": SCHEMA,
            "ranges": self.ranges,
            "hashes": {name: digest.hex() for name, digest in self.hashes.items()},
            "sources": self.sources,
            "seen": self._seen,
        }
        self.write_file(RECORD, json.dumps(record).encode())

    def write_file(self, name: str, content: bytes) -> None:
        """A small file, whole or not at all."""
        with room_for(self.place, len(content)):
            write_whole(self.place / name, content)

    def keep_small(self, files: Mapping[str, bytes]) -> None:
        """The small files and the manifest, which comes last."""
        for name, content in {**files, MANIFEST_FILE: self.manifest.to_json()}.items():
            self.write_file(name, content)

    @contextmanager
    def held(self, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Be the one process that writes here; `waiting` is called when another one does now.

        Raises:
            IntegrityError: what is here was damaged since; see `check_touched`.
        """
        with room_for(self.place, 0):
            self.place.mkdir(parents=True, exist_ok=True)
            file = os.open(self.place / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                lock(file, waits=False)
            except BlockingIOError:
                waiting()
                lock(file)
            self.reload()
            self.check_touched()
            yield
        finally:
            os.close(file)

    def missing(self, piece: Piece) -> Ranges:
        """What of a piece has to be fetched."""
        return gaps(self.ranges.get(piece.file, ()), (piece.start, piece.stop))

    @contextmanager
    def writing(self) -> Iterator["Writer"]:
        """Write into the files; what was written is saved on the way out, however that is."""
        writer = Writer(self)
        try:
            yield writer
        finally:
            writer.close()

    def found(self, piece: Piece) -> dict[str, bytes]:
        """What a piece's tensors hash to as they lie here."""
        hasher = PieceHasher(self.manifest, piece)
        with (self.place / piece.file).open("rb") as file:
            file.seek(piece.start)
            left = len(piece)
            while left:
                data = file.read(min(left, READ_BYTES))
                if not data:
                    raise BadModel(f"{piece.file} in {self.place} was cut short")
                hasher.update(data)
                left -= len(data)
        return hasher.digests()

    def drop(self, piece: Piece) -> None:
        """Forget a piece: it has to be fetched again."""
        held = self.ranges.get(piece.file, ())
        self.ranges[piece.file] = without(held, (piece.start, piece.stop))
        for name in piece.tensors:
            self.hashes.pop(name, None)
            self.sources.pop(name, None)

    def check_touched(self) -> None:
        """Return if what is here still is what was fetched, as far as files look touched.

        Raises:
            IntegrityError: a tensor is damaged; it is forgotten, so that it is fetched again.
        """
        touched = {
            file for file, seen in self._seen.items() if seen != stamp_or_none(self.place / file)
        }
        damaged = []
        for name, digest in list(self.hashes.items()):
            place = self.manifest.tensors[name]
            if place.file in touched:
                piece = Piece(place.file, place.entry.start, place.entry.stop, (name,))
                try:
                    sound = self.found(piece)[name] == digest
                except (OSError, BadModel):
                    sound = False
                if not sound:
                    self.drop(piece)
                    damaged.append(name)
        if touched:
            self.ranges = {f: r for f, r in self.ranges.items() if (self.place / f).exists()}
            self.save()
        if damaged:
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            raise IntegrityError(
                f"tensor {damaged[0]}{more} in {self.place} is damaged since it was fetched",
                hint="run the command again: it is fetched anew",
            )

    def require(self, pieces: Iterable[Piece]) -> None:
        """Return if all of `pieces` is here.

        Raises:
            IntegrityError: naming what is not.
        """
        for piece in pieces:
            if self.missing(piece) or not self.hashes.keys() >= set(piece.tensors):
                what = piece.tensors[0] if piece.tensors else f"the header of {piece.file}"
                raise IntegrityError(
                    f"{what} is not in {self.place}", hint="run the command again to fetch it"
                )

    def shared(self) -> dict[str, tuple[Path, Ranges]]:
        """What may be served to others, by file: headers, and tensors whose hashes are known."""
        found: dict[str, list[Range]] = {}
        for name in self.hashes:
            place = self.manifest.tensors[name]
            found.setdefault(place.file, []).append((place.entry.start, place.entry.stop))
        return {
            file: (self.place / file, merged([(0, header_stop(self.manifest, file)), *ranges]))
            for file, ranges in found.items()
        }

    @property
    def known(self) -> Manifest:
        """The manifest with the hashes of what is here, and of nothing that others only said."""
        nothing = dict.fromkeys(self.manifest.tensors, b"")
        return self.manifest.with_hashes(nothing | self.hashes)


class Writer:
    """Made by `Store.writing`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files: dict[str, int] = {}
        self._unsaved = 0

    def write(self, file: str, start: int, data: bytes) -> None:
        """Put bytes where they belong. They count as here once `keep` said so."""
        with room_for(self._store.place, len(data)):
            descriptor = self._open(file)
            view = memoryview(data)
            while view:
                n_written = write_at(descriptor, view, start)
                view, start = view[n_written:], start + n_written

    def keep(self, file: str, start: int, stop: int) -> None:
        """These bytes are written; a later run need not fetch them again."""
        ranges = self._store.ranges
        ranges[file] = merged([*ranges.get(file, ()), (start, stop)])
        self._unsaved += stop - start
        if self._unsaved >= SAVE_EVERY_BYTES:
            self.save()

    def save(self) -> None:
        for descriptor in self._files.values():
            os.fsync(descriptor)  # the record must not know more than the disk
        self._store.save()
        self._unsaved = 0

    def close(self) -> None:
        try:
            with room_for(self._store.place, 0):
                self.save()
        finally:
            for descriptor in self._files.values():
                os.close(descriptor)
            self._files.clear()

    def _open(self, file: str) -> int:
        if file not in self._files:
            path = self._store.place / file
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o644)
            self._files[file] = descriptor
            os.ftruncate(descriptor, self._store.manifest.file(file).n_bytes)
        return self._files[file]


@contextmanager
def room_for(place: Path, n_bytes: int) -> Iterator[None]:
    """What goes wrong while writing, as ours.

    Raises:
        OutOfMemory: the disk is full; says how much is free.
        ConfigError: nothing may be written there.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ConfigError(
                f"the cache {place} cannot be written: {error.strerror}",
                hint="put it where you may write: XDG_CACHE_HOME=DIR",
            ) from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OutOfMemory(
            f"the disk of {place} is full: {free_disk_bytes(place) / 2**20:.0f} MiB are free, and "
            f"{max(1, n_bytes >> 20)} MiB and more are to be written",
            hint="free some and run the command again: it goes on where it stopped",
        ) from error


def require_disk(place: Path, n_bytes: int, free: Callable[[Path], int] | None = None) -> None:
    """Return if so many bytes can be written.

    Raises:
        OutOfMemory: with both figures.
    """
    n_free = (free or free_disk_bytes)(place)
    if n_bytes > n_free:
        raise OutOfMemory(
            f"{n_bytes / 2**30:.2f} GiB are to be fetched, and the disk of {place} has "
            f"{n_free / 2**30:.2f} GiB free",
            hint="free some, choose a shorter --span, or put the cache elsewhere: XDG_CACHE_HOME",
        )


def free_disk_bytes(place: Path) -> int:
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def cache_root() -> Path:
    """Where models are kept that no person put anywhere."""
    import platformdirs

    return platformdirs.user_cache_path("manyhands") / "models"
