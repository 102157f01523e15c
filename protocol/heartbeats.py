"""Signs of life, 26 bytes each: links of a hash chain whose end a signed announcement names.

In: a secret, and the record that promised the chain. Out: beats that the peer alone can make and
that anybody can check with a few hashes. An announcement is some 600 bytes and a signature;
repeating it only to say "still here" is what a table of a thousand peers would spend its bytes on.

The chain is Lamport's (1981), used as PayWord does (Rivest and Shamir, 1996): link `i - 1` is the
hash of link `i`, link 0 (the anchor) is signed, and beat `i` shows link `i`. Each hash covers the
peer's key and its place in the chain, so that no table of hashes serves for two chains. Beat `i` is
due `i` intervals after the record was issued: it says no more than that the peer lived then.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, Self

from protocol.messages import require

LINK_BYTES = 16
RECORD_ID_BYTES = 8
MAX_BEATS = 128
MAX_INTERVAL_MS = 600_000
_NUMBER_BYTES = 2
_BEAT_BYTES = RECORD_ID_BYTES + _NUMBER_BYTES + LINK_BYTES
_DOMAIN = b"manyhands-beat-v1\x00"


@dataclass(frozen=True, slots=True)
class Heartbeats:
    """What a record promises: up to `n_beats` of them, `interval_ms` apart."""

    anchor: bytes
    n_beats: int
    interval_ms: int

    def __post_init__(self) -> None:
        require(len(self.anchor) == LINK_BYTES, f"an anchor has {LINK_BYTES} bytes")
        require(0 < self.n_beats <= MAX_BEATS, f"a chain has 1 to {MAX_BEATS} beats")
        require(0 < self.interval_ms <= MAX_INTERVAL_MS, "beats are at most 10 minutes apart")


class Beat(NamedTuple):
    """A sign of life that belongs to the record whose hash begins with `record_id`."""

    record_id: bytes
    number: int
    link: bytes

    def encode(self) -> bytes:
        return self.record_id + self.number.to_bytes(_NUMBER_BYTES, "big") + self.link

    @classmethod
    def decode_all(cls, packed: bytes) -> tuple[Self, ...]:
        """Raises ValueError: the bytes end in the middle of a beat."""
        if len(packed) % _BEAT_BYTES:
            raise ValueError("a list ends in the middle of a beat")
        parts = (packed[i : i + _BEAT_BYTES] for i in range(0, len(packed), _BEAT_BYTES))
        cut = RECORD_ID_BYTES + _NUMBER_BYTES
        return tuple(
            cls(
                part[:RECORD_ID_BYTES], int.from_bytes(part[RECORD_ID_BYTES:cut], "big"), part[cut:]
            )
            for part in parts
        )


def encode_beats(beats: Iterable[Beat]) -> bytes:
    return b"".join(beat.encode() for beat in beats)


def record_id(data: bytes) -> bytes:
    """The name of one version of one peer's record."""
    return sha256(data).digest()[:RECORD_ID_BYTES]


class BeatChain:
    """The peer's side: all links, grown from a secret that must never be used for another chain."""

    def __init__(self, secret: bytes, public_key: bytes, *, n_beats: int, interval_ms: int) -> None:
        link = sha256(_DOMAIN + secret).digest()[:LINK_BYTES]
        links = [link]
        for number in range(n_beats, 0, -1):
            link = _hash(public_key, number, link)
            links.append(link)
        self._links = links[::-1]
        self.promise = Heartbeats(link, n_beats, interval_ms)

    def link(self, number: int) -> bytes:
        """What shows that the peer lived `number` intervals after it issued the record."""
        return self._links[number]


def follows(
    link: bytes, number: int, *, known: bytes, known_number: int, public_key: bytes
) -> bool:
    """Whether `link` is number `number` of the chain whose number `known_number` is `known`."""
    for step in range(number, known_number, -1):
        link = _hash(public_key, step, link)
    return number > known_number and link == known


def _hash(public_key: bytes, number: int, link: bytes) -> bytes:
    place = number.to_bytes(_NUMBER_BYTES, "big")
    return sha256(_DOMAIN + public_key + place + link).digest()[:LINK_BYTES]
