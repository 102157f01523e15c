"""A span's weights from a hub into a store: only what it needs, resumed, checked.

In: a hub, a store, the names of tensors. Out: a store that holds them. Of a file of which most is
needed all is fetched, for then it can be checked against the hash that the hub publishes and the
digest covers. Of others only the span's runs of bytes are, and their tensors are checked against
what peers say they hash to, where somebody says so; else the hub is taken at its word.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from manyhands.weights.hub import Hub, Stumbled
from manyhands.weights.ranges import Ranges, gaps, merged
from manyhands.weights.store import Store, Writer, require_disk
from protocol.errors import BadModel, HubUnreachable, IntegrityError
from protocol.file_hashes import hash_tensors
from protocol.pieces import Piece, check_header, cut_pieces

MOST = 0.8  # of a file: then all of it
TRIES = 5  # in a row that brought no byte
BACKOFF_S = (0.5, 30.0)


@dataclass(slots=True, kw_only=True)
class Download:
    """One fetch; `run` it once. `stated` are hashes of tensors that others vouch for."""

    hub: Hub
    store: Store
    wanted: Collection[str]
    stated: Mapping[str, bytes] = field(default_factory=dict)
    advance: Callable[[int], object] = lambda n_bytes: None
    say: Callable[[str], object] = lambda line: None
    tries: int = TRIES
    backoff_s: tuple[float, float] = BACKOFF_S

    def run(self) -> None:
        """Fetch what is not here yet. The store must be held.

        Raises:
            IntegrityError: what came, twice, is not what is published.
            HubUnreachable: the hub keeps cutting or stalling. OutOfMemory: the disk is full.
        """
        missing = missing_ranges(self.store, self.wanted)
        require_disk(
            self.store.place, sum(stop - start for runs in missing.values() for start, stop in runs)
        )
        with self.store.writing() as writer:
            for file, runs in needed_ranges(self.store, self.wanted).items():
                self._file(writer, file, runs)

    def _file(self, writer: Writer, file: str, runs: Ranges) -> None:
        whole: Ranges = ((0, self.store.manifest.file(file).n_bytes),)
        attempts = (runs, runs) if runs == whole else (runs, runs, whole)
        for runs_now in attempts:
            self._fetch(writer, file, runs_now)
            wrong = self._check(file)
            if not wrong:
                writer.save()
                return
            self.say(f"{wrong} is not as it should be: fetching it again")
        raise IntegrityError(
            f"{wrong} came from {self.hub.name} on the hub, twice, other than it is published",
            hint="try again later, or fetch from peers: --join ADDR",
        )

    def _fetch(self, writer: Writer, file: str, runs: Ranges) -> None:
        for run in runs:
            for start, stop in gaps(self.store.ranges.get(file, ()), run):
                self._run(writer, file, start, stop)

    def _run(self, writer: Writer, file: str, start: int, stop: int) -> None:
        """One run of bytes, over as many connections as it takes."""
        n_bytes = self.store.manifest.file(file).n_bytes
        at, failed, wait_s = start, 0, self.backoff_s[0]
        while at < stop:
            try:
                for data in self.hub.stream(file, at, stop, n_bytes):
                    writer.write(file, at, data)
                    writer.keep(file, at, at + len(data))
                    at += len(data)
                    self.advance(len(data))
                    failed, wait_s = 0, self.backoff_s[0]
            except Stumbled as error:
                failed += 1
                if failed >= self.tries:
                    raise HubUnreachable(
                        f"{file} of {self.hub.name} stopped coming after {at - start} bytes: "
                        f"{error}, {failed} times",
                        hint="run the command again: it goes on where it stopped",
                    ) from error
                self.say(f"{file}: {error}; going on in {max(wait_s, error.wait_s):g} s")
                # Fetching comes before there is a node with a loop: nothing else waits.
                time.sleep(min(max(wait_s, error.wait_s), self.backoff_s[1]))
                wait_s = min(2 * wait_s, self.backoff_s[1])

    def _check(self, file: str) -> str:
        """Hash what is new; answer what is wrong, which is forgotten."""
        store, entry = self.store, self.store.manifest.file(file)
        if not gaps(store.ranges.get(file, ()), (0, entry.n_bytes)):
            places = store.manifest.tensors.items()
            table = {name: place.entry for name, place in places if place.file == file}
            found = hash_tensors(store.place / file, table)
            if found.sha256 == entry.sha256:
                store.hashes |= found.tensors
                store.sources |= dict.fromkeys(found.tensors, "file")
                return ""
            store.drop(Piece(file, 0, entry.n_bytes, tuple(table)))
            return file
        names = [name for name in self.wanted if store.manifest.tensors[name].file == file]
        for piece in cut_pieces(store.manifest, names):
            if wrong := self._check_piece(piece):
                store.drop(piece)
                return wrong
        return ""

    def _check_piece(self, piece: Piece) -> str:
        store = self.store
        if piece.is_header:
            with (store.place / piece.file).open("rb") as file:
                data = file.read(piece.stop)
            try:
                check_header(store.manifest, piece.file, data)
            except BadModel:
                return f"the header of {piece.file}"
            return ""
        if store.hashes.keys() >= set(piece.tensors):
            return ""
        found = store.found(piece)
        for name, digest in found.items():
            if self.stated.get(name, digest) != digest:
                return f"tensor {name}"
        store.hashes |= found
        store.sources |= {n: "peers" if n in self.stated else "hub" for n in found}
        return ""


def needed_ranges(store: Store, wanted: Collection[str]) -> dict[str, Ranges]:
    """What of which file is needed for these tensors, whether it is here or not."""
    needs: dict[str, list[tuple[int, int]]] = {}
    for piece in cut_pieces(store.manifest, wanted):
        needs.setdefault(piece.file, []).append((piece.start, piece.stop))
    result = {}
    for file, runs in needs.items():
        n_bytes = store.manifest.file(file).n_bytes
        some = merged(runs)
        share = sum(stop - start for start, stop in some) / n_bytes
        result[file] = ((0, n_bytes),) if share >= MOST else some
    return result


def missing_ranges(store: Store, wanted: Collection[str]) -> dict[str, Ranges]:
    """What of these has to be fetched."""
    return {
        file: merged(gap for run in runs for gap in gaps(store.ranges.get(file, ()), run))
        for file, runs in needed_ranges(store, wanted).items()
    }
