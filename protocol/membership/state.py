"""All that one member knows of its swarm, and what follows from it for a peer.

In: the founding policy, later policies, rulings, in any order and however often, from anybody. Out:
one state, the same for all who have heard the same (a policy is replaced by a higher sequence, a
peer's ruling by a later one; so states only grow, and merging them in any order gives the same),
and the roles of a peer by it. What is said of models is in `governance.py`, and travels behind the
rest. No clock, no sockets: `now_ms` is an argument.

Two members compare states by digest and send each other what they hold when it differs. It is
small: one policy, and a ruling of 200 bytes for each peer that was ever revoked, denied or allowed.
What a later version adds is passed over.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple

from protocol.canonical import decode
from protocol.errors import BadSignature, IntegrityError, MembershipEnded, NotAMember
from protocol.identity import PeerId, peer_id_from_public_key, public_key_from_peer_id
from protocol.membership import policy as policies
from protocol.membership.certificates import (
    MAX_CERTIFICATE_BYTES,
    RULING,
    Certificate,
    Ruling,
    Verdict,
)
from protocol.membership.governance import TYPES as GOVERNING
from protocol.membership.governance import Governance
from protocol.membership.roles import ALL, Roles
from protocol.signing import Envelope

DIGEST_BYTES = 32
MAX_RULINGS = 4096
MAX_STATE_BYTES = 2 * 2**20
KNOWN = frozenset({policies.TYPE, RULING}) | GOVERNING
_REMEMBERED = 4096  # certificates that were found to be good


class Held(NamedTuple):
    """A ruling and the bytes that prove it."""

    ruling: Ruling
    envelope: Envelope


class SwarmState:
    """See the module."""

    def __init__(self, founding: Envelope) -> None:
        """
        Raises:
            IntegrityError: this founds no swarm.
        """
        self.founding = founding
        self.policy, self.swarm_id = policies.open_founding(founding)
        self.rulings: dict[bytes, Held] = {}
        self._first, self._update = self.policy, founding
        self.governance = Governance(self.policy.name, self.swarm_id, self.policy.founders)
        self._certificates: dict[bytes, tuple[Certificate, bytes]] = {}  # and who signed it
        self._digest = b""

    # --- what is known ----------------------------------------------------------------------------

    @property
    def digest(self) -> bytes:
        """The same for two members exactly if they hold the same."""
        if not self._digest:
            held = sorted(held.envelope.encode() for held in self.rulings.values())
            said = (envelope.encode() for envelope in self.governance.envelopes())
            parts = [self._update.encode(), *held, *said]
            self._digest = sha256(b"".join(sha256(part).digest() for part in parts)).digest()
        return self._digest

    def encode(self) -> bytes:
        """Everything but the founding policy, for somebody who lacks some of it."""
        return b"".join(framed(envelope.encode()) for envelope in self._envelopes())

    def _envelopes(self) -> Iterator[Envelope]:
        if self.policy.sequence:
            yield self._update
        for key in sorted(self.rulings):
            yield self.rulings[key].envelope
        yield from self.governance.envelopes()

    def merge(self, data: bytes) -> bool:
        """Take in what somebody sent; whether any of it was news.

        Raises:
            IntegrityError: some of it no admin of this swarm made; what came before it is kept.
        """
        if len(data) > MAX_STATE_BYTES:
            raise IntegrityError(f"a state of {len(data)} bytes")
        before = self.digest
        for part in frames(data):
            envelope = Envelope.decode(part)
            if envelope.type == RULING and not self.policy.may_admit(envelope.signers[0]):
                continue  # by an admin that is none any more, as the sender will hear
            if envelope.type in KNOWN:
                self.learn(envelope)
        return self.digest != before

    def learn(self, envelope: Envelope) -> bool:
        """Take in one policy, ruling, or word about models; whether it was news.

        Raises:
            IntegrityError: it is none of them, or not made by who may.
        """
        if envelope.type in GOVERNING:
            news = self.governance.learn(envelope)
        else:
            news = self._rule(envelope) if envelope.type == RULING else self._replace(envelope)
        if news:
            self._digest = b""
        return news

    def _replace(self, envelope: Envelope) -> bool:
        if envelope in (self._update, self.founding):
            return False
        update = policies.open_update(envelope, self._first, self.swarm_id)
        ours = (self.policy.sequence, self._update.payload)
        if (update.sequence, envelope.payload) <= ours:
            return False
        self.policy, self._update = update, envelope
        # What a former admin ruled, a founder who removes it signs again.
        self.rulings = {
            key: held
            for key, held in self.rulings.items()
            if update.may_admit(held.envelope.signers[0])
        }
        return True

    def _rule(self, envelope: Envelope) -> bool:
        if any(held.envelope == envelope for held in self._held_for(envelope)):
            return False
        ruling = Ruling.open(envelope, self.swarm_id)
        if not self.policy.may_admit(envelope.signers[0]):
            raise BadSignature("only an admin rules about members")
        held = self.rulings.get(ruling.peer)
        if held is not None and (held.ruling.order, held.envelope.encode()) >= (
            ruling.order,
            envelope.encode(),
        ):
            return False
        if held is None and len(self.rulings) >= MAX_RULINGS:
            raise IntegrityError(f"more than {MAX_RULINGS} peers were ruled about")
        self.rulings[ruling.peer] = Held(ruling, envelope)
        return True

    def _held_for(self, envelope: Envelope) -> Iterable[Held]:
        """The ruling of the peer that this one names, if it is well formed: cheap, unproven."""
        fields = decode(envelope.payload)
        peer = fields[1] if len(fields) > 1 else None
        held = self.rulings.get(peer) if isinstance(peer, bytes) else None
        return (held,) if held is not None else ()

    # --- what follows -----------------------------------------------------------------------------

    def roles(self, peer_id: PeerId, credential: bytes, now_ms: int) -> Roles:
        """What this peer may do here, showing this certificate, or none (empty).

        Raises:
            NotAMember: nothing, and it never might.
            MembershipEnded: nothing any more.
        """
        key = public_key_from_peer_id(peer_id)
        if self.policy.may_admit(key):
            return ALL
        held = self.rulings.get(key)
        ruling = held.ruling if held else None
        if ruling is not None and ruling.verdict is Verdict.DENIED:
            raise MembershipEnded(peer_id, "an admin of the swarm denies it")
        allowed = ruling.roles if ruling is not None else frozenset()
        try:
            return allowed | self._certified(peer_id, key, credential, ruling, now_ms)
        except (NotAMember, MembershipEnded):
            if allowed or self.policy.guests:
                return allowed | self.policy.guests
            raise

    def groups(self, peer_id: PeerId, credential: bytes, now_ms: int) -> frozenset[str]:
        """The trust groups that its certificate puts it in, while that counts."""
        key = public_key_from_peer_id(peer_id)
        held = self.rulings.get(key)
        ruling = held.ruling if held else None
        if ruling is not None and ruling.verdict is Verdict.DENIED:
            return frozenset()
        try:
            self._certified(peer_id, key, credential, ruling, now_ms)
            return self._certificate(credential)[0].groups
        except (NotAMember, MembershipEnded):
            return frozenset()

    def is_guest(self, peer_id: PeerId, credential: bytes, now_ms: int) -> bool:
        """Whether it may do what it may only because everybody may."""
        key = public_key_from_peer_id(peer_id)
        held = self.rulings.get(key)
        if self.policy.may_admit(key) or (held is not None and held.ruling.roles):
            return False
        try:
            self._certified(peer_id, key, credential, held.ruling if held else None, now_ms)
        except (NotAMember, MembershipEnded):
            return True
        return False

    def _certified(
        self, peer_id: PeerId, key: bytes, credential: bytes, ruling: Ruling | None, now_ms: int
    ) -> Roles:
        try:
            certificate, signer = self._certificate(credential)
        except IntegrityError as error:
            raise NotAMember(peer_id, f"it shows no certificate of this swarm: {error}") from error
        if certificate.peer != key or not self.policy.may_admit(signer):
            raise NotAMember(peer_id, "its certificate is not its own, or by nobody who may")
        is_revoked = ruling is not None and ruling.verdict is Verdict.REVOKED
        if is_revoked and ruling is not None and certificate.issued_ms <= ruling.stamp_ms:
            raise MembershipEnded(peer_id, "its membership was revoked")
        if not certificate.is_valid(now_ms):
            raise MembershipEnded(peer_id, "its membership expired, or begins later")
        return certificate.roles

    def _certificate(self, credential: bytes) -> tuple[Certificate, bytes]:
        """Who signed it was checked; whether that key may still, is not."""
        known = self._certificates.get(credential)
        if known is None:
            if not 0 < len(credential) <= MAX_CERTIFICATE_BYTES:
                raise IntegrityError("no certificate")
            envelope = Envelope.decode(credential)
            known = Certificate.open(envelope, self.swarm_id), envelope.signers[0]
            if len(self._certificates) >= _REMEMBERED:
                self._certificates.clear()
            if self.policy.may_admit(known[1]):  # else strangers could push good ones out
                self._certificates[credential] = known
        return known

    def last_stamp_ms(self, key: bytes) -> int:
        """Of the ruling that a new one of this peer must come after."""
        held = self.rulings.get(key)
        return held.ruling.stamp_ms if held else 0

    def is_sent_off(self, peer_id: PeerId) -> bool:
        """Whether an admin revoked or denied it. Who was revoked may hold a later certificate; who
        has not seen it must not count on that."""
        key = public_key_from_peer_id(peer_id)
        held = self.rulings.get(key)
        is_out = held is not None and held.ruling.verdict is not Verdict.ALLOWED
        return is_out and not self.policy.may_admit(key)

    def ruled(self, verdict: Verdict) -> tuple[PeerId, ...]:
        return tuple(
            peer_id_from_public_key(key)
            for key, held in self.rulings.items()
            if held.ruling.verdict is verdict
        )


def framed(part: bytes) -> bytes:
    """One part of several that are sent as one; see `frames`."""
    return len(part).to_bytes(4, "big") + part


def frames(data: bytes) -> Iterator[bytes]:
    """The parts of what was framed one after the other.

    Raises:
        IntegrityError: it ends in the middle of one.
    """
    at = 0
    while at < len(data):
        stop = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if stop > len(data) or at + 4 > len(data):
            raise IntegrityError("a state that ends in the middle")
        yield data[at + 4 : stop]
        at = stop
