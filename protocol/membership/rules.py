"""What a swarm demands of the models in it: who releases them, who warns of them, on what terms.

In: rules, a founder's key. Out: a signed envelope, and back. Rules are the second page of a policy
(`policy.py`): a founder signs them, a higher sequence replaces them, and they travel behind policy
and rulings, so that members of a version that knows no rules still hear who was sent away. What is
released and warned of is in `releases.py` and `advisories.py`; who judges by it is `governance.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any, Self

from protocol.canonical import Field, NotCanonical
from protocol.errors import IntegrityError
from protocol.signing import (
    MAX_SIGNATURES,
    Envelope,
    SigningKey,
    check_public_key,
    open_envelope,
    seal,
)

TYPE, VERSION = "mh/rules/1", 1
MAX_RELEASE_RULES, MAX_KEYS = 16, 16  # keys: of all quorums together
MAX_USE_CHARS = 16 * 1024
MAX_TRUSTED, MAX_TRUSTED_BYTES = 8, 4096
MAX_PATTERN_CHARS = 100


class Channel(StrEnum):
    """How far along a revision is; who takes one channel takes those after it, too."""

    DEV = "dev"
    CANDIDATE = "candidate"
    STABLE = "stable"

    @property
    def and_safer(self) -> "tuple[Channel, ...]":
        channels = tuple(Channel)
        return channels[channels.index(self) :]


@dataclass(frozen=True, slots=True)
class Quorum:
    """`needs` of these keys must sign, each once."""

    keys: tuple[bytes, ...]
    needs: int

    def __post_init__(self) -> None:
        _check(list(self.keys) == sorted(set(self.keys)), "keys stand in order, each once")
        _check(len(self.keys) <= MAX_SIGNATURES, f"a quorum has up to {MAX_SIGNATURES} keys")
        _check(1 <= self.needs <= len(self.keys), "a quorum needs one of its keys, or more")
        for key in self.keys:
            check_public_key(key)

    @classmethod
    def of(cls, keys: Sequence[bytes], needs: int) -> Self:
        return cls(tuple(sorted(set(keys))), needs)


@dataclass(frozen=True, slots=True)
class ReleaseRule:
    """Who releases models of these names into a channel."""

    models: str  # a name, in which * stands for anything
    channel: Channel
    quorum: Quorum

    def __post_init__(self) -> None:
        _check(is_pattern(self.models), "a rule is for models by name, as llama-* or *")

    def covers(self, model: str, channel: Channel) -> bool:
        return channel is self.channel and matches(model, self.models)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """See the module. The defaults demand nothing."""

    sequence: int = 0
    releases: tuple[ReleaseRule, ...] = ()  # of those that cover a model, the first counts
    serves: tuple[Channel, ...] = (Channel.STABLE,)  # what nodes may serve
    advisories: Quorum | None = None
    asks_licence: bool = False  # operators accept each model's licence before they serve or use it
    acceptable_use: str = ""  # a text that operators accept
    trusted: tuple[bytes, ...] = ()  # who signs checkpoints: DER of public keys or certificates
    asks_signature: bool = False  # of a trusted signer, on what nodes load

    def __post_init__(self) -> None:
        _check(self.sequence >= 0, "sequences count up from 0")
        _check(len(self.releases) <= MAX_RELEASE_RULES, f"more than {MAX_RELEASE_RULES} rules")
        _check(len(self.keys()) <= MAX_KEYS, f"more than {MAX_KEYS} keys in all rules")
        ordered = tuple(channel for channel in Channel if channel in self.serves)
        _check(self.serves == ordered, "channels stand in order, each once")
        _check(len(self.acceptable_use) <= MAX_USE_CHARS, "a text of up to 16,384 characters")
        trusted = self.trusted
        _check(list(trusted) == sorted(set(trusted)), "trusted keys stand in order, each once")
        _check(len(trusted) <= MAX_TRUSTED, f"more than {MAX_TRUSTED} trusted keys")
        _check(all(0 < len(key) <= MAX_TRUSTED_BYTES for key in trusted), "a key of that length")
        _check(bool(trusted) or not self.asks_signature, "nobody's signature would do")

    @property
    def use_hash(self) -> bytes:
        """What is accepted of the acceptable-use text; empty: there is none."""
        return sha256(self.acceptable_use.encode()).digest() if self.acceptable_use else b""

    def keys(self) -> frozenset[bytes]:
        """Of all who may release or warn."""
        quorums = [rule.quorum for rule in self.releases]
        return frozenset(key for quorum in (*quorums, *self._warners) for key in quorum.keys)

    @property
    def _warners(self) -> tuple[Quorum, ...]:
        return (self.advisories,) if self.advisories else ()

    def quorum_for(self, model: str, channel: Channel) -> Quorum | None:
        """Who releases this model into this channel; None: nobody does."""
        return next((r.quorum for r in self.releases if r.covers(model, channel)), None)

    def seal(self, swarm_id: bytes, key: SigningKey) -> Envelope:
        """Signed by a founder."""
        return seal(TYPE, swarm_id, self._fields(), key)

    def _fields(self) -> tuple[Field, ...]:
        releases = tuple(
            (r.models, r.channel.value, *_quorum_fields(r.quorum)) for r in self.releases
        )
        return (
            VERSION,
            self.sequence,
            releases,
            tuple(channel.value for channel in self.serves),
            tuple(_quorum_fields(quorum) for quorum in self._warners),
            self.asks_licence,
            self.acceptable_use,
            self.trusted,
            self.asks_signature,
        )


def open_rules(envelope: Envelope, founders: Sequence[bytes], swarm_id: bytes) -> Rules:
    """
    Raises:
        IntegrityError: these are none, of another swarm, or not signed by a founder.
    """
    _check(len(envelope.signers) == 1, "rules have one signature")
    _check(envelope.signers[0] in founders, "rules are signed by a founder")
    return _read(open_envelope(envelope, TYPE, swarm_id, envelope.signers))


def _read(fields: list[Any]) -> Rules:
    match fields:
        case [
            int() as version, int() as sequence, [*releases], [*serves], [*warners],
            bool() as asks_licence, str() as use, [*trusted], bool() as asks_signature,
        ] if bool not in {type(version), type(sequence)} and version == VERSION:  # fmt: skip
            _check(len(warners) <= 1, "one quorum warns")
            _check(all(type(key) is bytes for key in trusted), "trusted keys are bytes")
        case _:
            raise NotCanonical("rules have other fields")
    return Rules(
        sequence=sequence,
        releases=tuple(map(_read_release, releases)),
        serves=tuple(map(read_channel, serves)),
        advisories=_read_quorum(warners[0]) if warners else None,
        asks_licence=asks_licence,
        acceptable_use=use,
        trusted=tuple(trusted),
        asks_signature=asks_signature,
    )


def _read_release(fields: Any) -> ReleaseRule:
    match fields:
        case [str() as models, channel, *quorum]:
            return ReleaseRule(models, read_channel(channel), _read_quorum(quorum))
        case _:
            raise NotCanonical("a release rule has other fields")


def _quorum_fields(quorum: Quorum) -> tuple[Field, ...]:
    return quorum.keys, quorum.needs


def _read_quorum(fields: Any) -> Quorum:
    match fields:
        case [[*keys], int() as needs] if type(needs) is int:
            _check(all(type(key) is bytes for key in keys), "keys are bytes")
            return Quorum(tuple(keys), needs)
        case _:
            raise NotCanonical("a quorum has other fields")


def read_channel(value: Any) -> Channel:
    """
    Raises:
        IntegrityError: there is no such channel.
    """
    _check(isinstance(value, str) and value in [*Channel], "a channel is dev, candidate or stable")
    return Channel(value)


def is_pattern(text: str) -> bool:
    plain = 0 < len(text) <= MAX_PATTERN_CHARS and text.isprintable()
    return plain and not {*text} & {"[", "]", "?"}  # a star is all there is


def matches(model: str, pattern: str) -> bool:
    return fnmatchcase(model, pattern)


def _check(holds: bool, complaint: str) -> None:
    if not holds:
        raise IntegrityError(complaint)


NO_RULES = Rules()
