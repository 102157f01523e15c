"""What a client remembers of its sessions, so that the next one begins where they ended (5a.8).

In: sessions as they are committed and closed, requests. Out: names for the first rows of a session,
hop by hop, and the chain that most likely still has them. A name is a digest of the ids and of the
hops they came through, under a salt that stays here: two hops see different names for the same
rows, and nobody can try what others asked. The salt grows from the client's key, so that it
outlives the process; clients who give the same `prefix_group`, a secret of theirs, share one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from protocol.asking import MAX_PREFIXES, PREFIX_BYTES, PrefixNames
from protocol.chain_actions import Seat
from protocol.chain_session import ChainSession
from protocol.codec import ids_to_bytes
from protocol.errors import IntegrityError, PeerMisbehaved
from protocol.identity import Identity
from protocol.messages import TOKEN_BYTES, Keep, SessionId
from scheduler.request import GenerationRequest

STRIDE = 64  # positions; doubled until a history fits
MAX_STRIDES = MAX_PREFIXES - 8
MIN_PREFIX = 32  # a shorter one is run sooner than copied
MAX_SESSIONS = 64  # remembered
CHEATED = PeerMisbehaved, IntegrityError

Ids = np.ndarray[Any, np.dtype[np.uint32]]


@dataclass(frozen=True, slots=True)
class Past:
    """A session that may be continued: its ids so far, and who ran them."""

    manifest: bytes
    adapter: str
    group: str
    n_prompt: int
    ids: Ids
    seats: tuple[Seat, ...]

    def is_like(self, request: GenerationRequest) -> bool:
        """Whether a hop would take the rows of one for the other's."""
        wanted = request.manifest, request.adapter, request.prefix_group
        return (self.manifest, self.adapter, self.group) == wanted

    def common(self, ids: Ids) -> int:
        """How many first ids are the same."""
        length = min(len(self.ids), len(ids))
        differs = np.flatnonzero(self.ids[:length] != ids[:length])
        return int(differs[0]) if len(differs) else length

    @property
    def ends(self) -> tuple[int, ...]:
        """What its hops have, besides strides: all but the last id, which nobody has run."""
        return self.n_prompt - 1, self.n_prompt, len(self.ids) - 1


@dataclass(frozen=True, slots=True)
class Familiar:
    """A chain that has run the first `length` ids of a request already."""

    seats: tuple[Seat, ...]
    length: int


class Prefixes:
    """Of one client."""

    def __init__(self, identity: Identity) -> None:
        self._salt = _salt(b"client", identity.key.seed)
        self._past: dict[SessionId, Past] = {}  # the latest last

    def session(self, session: SessionId, request: GenerationRequest) -> "SessionPrefixes":
        """What a session asks of its hops, and leaves for the next."""
        salt = (
            _salt(b"group", request.prefix_group.encode()) if request.prefix_group else self._salt
        )
        ids = np.asarray(request.prompt_ids, np.uint32)
        likely = [(past.common(ids), past) for past in self._past.values() if past.is_like(request)]
        likely = [(common, past) for common, past in likely if common >= MIN_PREFIX]
        likely.sort(key=lambda found: found[0], reverse=True)
        ends = {end for common, past in likely[:2] for end in past.ends if end <= common}
        found = Familiar(likely[0][1].seats, likely[0][0]) if likely else None
        return SessionPrefixes(self, session, request, salt, frozenset(ends), found)

    def remember(self, session: SessionId, past: Past) -> None:
        self._past.pop(session, None)
        self._past[session] = past
        while len(self._past) > MAX_SESSIONS:
            del self._past[next(iter(self._past))]


class SessionPrefixes:
    """Of one session. `familiar`: the chain to prefer, if any."""

    def __init__(
        self,
        client: Prefixes,
        session: SessionId,
        request: GenerationRequest,
        salt: bytes,
        ends: frozenset[int],
        familiar: Familiar | None,
    ) -> None:
        self.is_on = request.reuse_prefix and not request.reads_prompt
        self.familiar = familiar if self.is_on else None
        self._client, self._session, self._request = client, session, request
        self._salt, self._ends = salt, ends
        self._asked: dict[str, tuple[int, ...]] = {}  # by hop

    def ask(
        self, ids: Sequence[int], path: Sequence[Seat], copied: PrefixNames | None = None
    ) -> PrefixNames:
        """What to ask the last hop of `path` for. `copied`: what it holds for this very session."""
        names = copied or self.names(ids, path)
        self._asked[path[-1].peer] = names.positions
        return names

    def check(self, peer: str, length: int) -> None:
        """Return if the hop may say that it has so many rows.

        Raises:
            PeerMisbehaved: nobody asked for them.
        """
        if length not in (0, *self._asked.get(peer, ())):
            raise PeerMisbehaved(peer, f"it offers {length} rows that nobody asked for")

    def names(self, ids: Sequence[int], path: Sequence[Seat]) -> PrefixNames:
        """For the last hop of `path`, which are all hops up to it.

        Never of the last id: the row that draws the next token is always run.
        """
        if not self.is_on:
            return PrefixNames()
        n_prompt = len(self._request.prompt_ids)
        ends = self._ends | {n_prompt - 1, n_prompt, len(ids) - 1}
        positions = name_positions(len(ids) - 1, ends)
        digests = prefix_digests(self._salt, path, ids, positions)
        return PrefixNames(
            positions=positions, digests=digests, shared=bool(self._request.prefix_group)
        )

    def keeps(self, rules: ChainSession) -> list[tuple[str, Keep]]:
        """What to ask the hops to keep of what they have run, unless one cannot be trusted."""
        seats = [hop.seat for hop in rules.hops]
        is_whole = sum(len(seat.span) for seat in seats) == self._request.n_blocks
        if not is_whole or any(isinstance(why, CHEATED) for why in rules.avoid.values()):
            return []
        named = [
            (seats[at].peer, self.names(rules.ids, seats[: at + 1])) for at in range(len(seats))
        ]
        self.remember(rules.ids, seats)
        return [(peer, Keep(prefixes=names)) for peer, names in named if names.positions]

    def remember(self, ids: Sequence[int], seats: Sequence[Seat]) -> None:
        """This chain has run these ids, or is about to."""
        if self.is_on:
            past = Past(
                self._request.manifest,
                self._request.adapter,
                self._request.prefix_group,
                len(self._request.prompt_ids),
                np.asarray(ids, np.uint32),
                tuple(seats),
            )
            self._client.remember(self._session, past)


def name_positions(n: int, ends: frozenset[int] | set[int]) -> tuple[int, ...]:
    """Which prefixes of `n` ids get a name: every stride, and these ends; at most MAX_PREFIXES.

    Strides are powers of two, so that a longer history has names in common with a shorter one.
    """
    stride = STRIDE
    while n // stride > MAX_STRIDES:
        stride *= 2
    chosen = set(sorted(ends, reverse=True)[: MAX_PREFIXES - MAX_STRIDES])
    chosen.update(range(stride, n + 1, stride))
    return tuple(sorted(at for at in chosen if MIN_PREFIX <= at <= n))


def prefix_digests(
    salt: bytes, path: Sequence[Seat], ids: Sequence[int], positions: Sequence[int]
) -> bytes:
    """The names of these prefixes at the last hop of `path`, one after the other."""
    hashed = blake2b(key=salt, digest_size=PREFIX_BYTES, person=b"manyhands prefix")
    hashed.update("".join(f"{seat.peer} {seat.span}\n" for seat in path).encode() + b"\n")
    data, done, digests = ids_to_bytes(list(ids)), 0, []
    for position in positions:
        hashed.update(data[done : position * TOKEN_BYTES])
        done = position * TOKEN_BYTES
        digests.append(hashed.copy().digest())
    return b"".join(digests)


def _salt(kind: bytes, secret: bytes) -> bytes:
    return blake2b(kind + b" " + secret, digest_size=32, person=b"manyhands salt").digest()
