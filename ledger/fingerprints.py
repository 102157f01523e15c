"""How a statement commits to fingerprints, and how single windows of them are shown later.

In: the windows of what a tab ran and what stands of it, in order. Out: the `fp_root` of a
statement, openings that lead to it, and whether an opening does. Which positions a root is about is
hashed into it, so that windows can be neither left out nor added. Leaves are keyed by the session's
salt, which is never logged: a root confirms no guess of a prompt. What is in a window is
`protocol.fingerprint`'s, judging it an auditor's.

    entry   = HMAC-SHA256(salt, window)
    fp_root = SHA-256("manyhands-fp-root-v1" || u64be start || u64be stop || RFC 9162 root(entries))
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from ledger import merkle
from ledger.errors import BadProof
from ledger.objects import Statement, Terms
from ledger.receipts import open_statement
from protocol.canonical import Field, decode, encode
from protocol.errors import IntegrityError
from protocol.signing import Envelope
from protocol.windows import WINDOW, Window, windows_of

DOMAIN = b"manyhands-fp-root-v1"
METHOD = "fingerprints"  # the call that is answered with an opening
MAX_OPENED = 32
"""Windows in one opening: they fit the 64 KiB of an object."""


def leaf_of(window: bytes, salt: bytes) -> bytes:
    """The Merkle leaf of an encoded window."""
    return merkle.leaf_hash(hmac.digest(salt, window, "sha256"))


class WindowTree:
    """The windows of positions `[start, stop)`, by the leaves of all of them, in order."""

    def __init__(self, start: int, stop: int, leaves: Sequence[bytes]) -> None:
        assert len(leaves) == n_windows(start, stop)
        self.start, self.stop, self._leaves = start, stop, leaves
        self._nodes: dict[tuple[int, int], bytes] = {}

    def _node_at(self, level: int, index: int) -> bytes:
        if not level:
            return self._leaves[index]
        if (known := self._nodes.get((level, index))) is None:
            left = self._node_at(level - 1, 2 * index)
            known = merkle.node_hash(left, self._node_at(level - 1, 2 * index + 1))
            self._nodes[level, index] = known
        return known

    def merkle_root(self) -> bytes:
        return merkle.root(len(self._leaves), self._node_at)

    def root(self) -> bytes:
        """As a statement has it."""
        return fp_root(self.start, self.stop, self.merkle_root())

    def path(self, index: int) -> list[bytes]:
        """From window `index`, counted from position 0, to the root over the windows."""
        at = index - self.start // WINDOW
        return merkle.inclusion_proof(at, len(self._leaves), self._node_at)


def n_windows(start: int, stop: int) -> int:
    return sum(1 for _ in windows_of(start, stop))


def fp_root(start: int, stop: int, root: bytes) -> bytes:
    at = start.to_bytes(8, "big") + stop.to_bytes(8, "big")
    return sha256(DOMAIN + at + root).digest()


@dataclass(frozen=True, slots=True)
class Opening:
    """What a hop answers who asks for windows of a tab: they, and the statement they stand under.

    start, stop: the positions that the root is about. root: over all windows, as RFC 9162 has it.
    shown: windows, encoded, with their paths, by their index.
    """

    statement: Envelope
    start: int
    stop: int
    root: bytes
    shown: Mapping[int, tuple[bytes, tuple[bytes, ...]]]

    def encode(self) -> bytes:
        shown: list[Field] = [
            [index, window, list(path)] for index, (window, path) in self.shown.items()
        ]
        return encode([1, self.statement.encode(), self.start, self.stop, self.root, shown])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises IntegrityError: it is no opening."""
        match decode(data):
            case [1, bytes(statement), int(start), int(stop), bytes(root), list(shown)] if (
                start < stop and all(map(_is_shown, shown))
            ):
                windows = {index: (window, tuple(path)) for index, window, path in shown}
                return cls(Envelope.decode(statement), start, stop, root, windows)
        raise IntegrityError("these are no opened fingerprints")

    def check(
        self, terms: Terms, terms_oid: bytes, salt: bytes, swarm_id: bytes
    ) -> tuple[Statement, dict[int, Window]]:
        """The statement and the windows by index, if all of it holds.

        Whoever challenges compares the statement with the one it held before it asked: one made
        afterwards was made by somebody who knew what would be looked at.

        Raises:
            IntegrityError: a signature, a path, or what a window says of itself does not hold.
        """
        statement = open_statement(self.statement, terms, terms_oid, swarm_id)
        if statement.fp_root is None:
            raise BadProof("the statement commits to no fingerprints")
        if fp_root(self.start, self.stop, self.root) != statement.fp_root:
            raise BadProof("these fingerprints are not those that the statement commits to")
        parts = {start // WINDOW: (start, stop) for start, stop in self._parts()}
        windows: dict[int, Window] = {}
        for index, (data, path) in self.shown.items():
            if index not in parts:
                raise BadProof(f"window {index} is not one of {self.start}:{self.stop}")
            at = index - self.start // WINDOW
            merkle.verify_inclusion(leaf_of(data, salt), at, len(parts), path, self.root)
            window = Window.decode(data)
            if (window.start, window.stop) != parts[index]:
                raise BadProof(f"window {index} is about other positions than its place")
            windows[index] = window
        return statement, windows

    def _parts(self) -> Sequence[tuple[int, int]]:
        if self.stop - self.start > 1 << 22:
            raise BadProof("fingerprints of more positions than any session has")
        return list(windows_of(self.start, self.stop))


def _is_shown(item: object) -> bool:
    match item:
        case [int(_), bytes(_), list(path)]:
            return all(type(each) is bytes for each in path)
    return False


@dataclass(frozen=True, slots=True)
class OpeningRequest:
    """Which windows of a tab somebody asks for."""

    terms_oid: bytes
    windows: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.terms_oid) != 32 or not 0 < len(self.windows) <= MAX_OPENED:
            raise IntegrityError(f"an opening names terms and 1 to {MAX_OPENED} windows")
        if len(set(self.windows)) != len(self.windows):
            raise IntegrityError("an opening names each window once")

    def encode(self) -> bytes:
        return encode([1, self.terms_oid, list(self.windows)])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises IntegrityError: it is no such question."""
        match decode(data):
            case [1, bytes(terms_oid), list(windows)] if all(type(w) is int for w in windows):
                return cls(terms_oid, tuple(windows))
        raise IntegrityError("this asks for no fingerprints")
