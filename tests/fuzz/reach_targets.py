"""What is said on the way to a peer and of what it may do: hellos, relays, dial-back, constraints;
releases, advisories and rules about models."""

import ssl
from contextlib import suppress

from protocol import constraints as constraining
from protocol import relaying
from protocol.address import Address
from protocol.client_hello import server_name
from protocol.constraints import Constraints, Group
from protocol.dialling_back import Answer, Outcome, Question
from protocol.membership import advisories, releases, rules
from protocol.membership.state import SwarmState
from protocol.messages import SessionId
from protocol.relaying import Asked, Called, Granted, Reservation, Share, from_bytes, to_bytes
from protocol.signing import OPEN_SWARM_ID, Envelope
from tests.announcing import NOW_MS, key_of, peer_of
from tests.fuzz.harness import Target
from tests.fuzz.trust_targets import sealed
from tests.membership import FOUNDER, RELEASERS, WARNERS, advise, found, govern, release

SESSION = SessionId(bytes(16))
_ASKED = Constraints(regions=("eu",), groups=(Group("lab", (peer_of(1),)),), avoid=(peer_of(9),))
_CLIENT = key_of(3).public_key
_RELAY = Address("203.0.113.5", 31402, peer_of(2))


def hello(name: str) -> bytes:
    """A TLS client's first words, asking for this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sent = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    return sent.read()


def _dialled_back(data: bytes) -> None:
    Answer.decode(data, sender="sender")


def _dial_back_answers() -> list[bytes]:
    refused = Answer(outcome=Outcome.REFUSED, reason="nobody listens")
    return [refused.encode(), Answer(outcome=Outcome.DECLINED, took_us=5).encode()]


def _reservation() -> Reservation:
    return Reservation(
        peer_id=peer_of(1),
        relay=peer_of(2),
        addresses=(_RELAY,),
        share=Share(),
        issued_ms=NOW_MS,
        expires_ms=NOW_MS + 60_000,
    )


def _open_reservation(envelope: Envelope) -> None:
    Reservation.opened(
        envelope.encode(), OPEN_SWARM_ID, peer_id=peer_of(1), relay=peer_of(2)
    ).relayed()


def _open_constraints(envelope: Envelope) -> None:
    Constraints.open(envelope.encode(), SESSION, OPEN_SWARM_ID, _CLIENT)


class _Ruled:
    """A swarm's state that has rules, made anew once somebody has changed it."""

    def __init__(self) -> None:
        self._founding = found()
        self._rules = govern(SwarmState(self._founding))
        self.state = self._made()

    def _made(self) -> SwarmState:
        state = SwarmState(self._founding)
        state.learn(self._rules)
        return state

    def learn(self, envelope: Envelope) -> None:
        if self.state.learn(envelope):
            self.state = self._made()


_RULED = _Ruled()
_SWARM = _RULED.state.swarm_id


def _payload(sealed_bytes: bytes) -> bytes:
    return Envelope.decode(sealed_bytes).payload


TARGETS = (
    Target(name="client-hello", parse=server_name, seeds=lambda: [hello("12d3koo.peer")]),
    Target(
        name="dial-back-question",
        parse=lambda data: Question.decode(data, sender="sender"),
        seeds=lambda: [Question(31400).encode()],
        shape="cbor",
    ),
    Target(name="dial-back-answer", parse=_dialled_back, seeds=_dial_back_answers, shape="cbor"),
    Target(
        name="relay-words",
        parse=lambda data: from_bytes(data, sender=peer_of(1)),
        seeds=lambda: [
            to_bytes(Asked(9)),
            to_bytes(Granted(b"r")),
            to_bytes(Called(bytes(relaying.TOKEN_BYTES))),
        ],
        shape="cbor",
    ),
    Target(
        name="relay-reservation",
        parse=sealed(relaying.TYPE, OPEN_SWARM_ID, _open_reservation, signer=2),
        seeds=lambda: [_payload(_reservation().sealed(OPEN_SWARM_ID, key_of(2)))],
        shape="cbor",
    ),
    Target(
        name="constraints",
        parse=Constraints.decode,
        seeds=lambda: [_ASKED.encode(), b""],
        shape="cbor",
    ),
    Target(
        name="constraints-signed",
        parse=sealed(constraining.TYPE, OPEN_SWARM_ID, _open_constraints, signer=3),
        seeds=lambda: [_payload(_ASKED.seal(SESSION, OPEN_SWARM_ID, key_of(3)))],
        shape="cbor",
    ),
    Target(
        name="model-rules",
        parse=sealed(rules.TYPE, _SWARM, _RULED.learn, signer=FOUNDER),
        seeds=lambda: [govern(_RULED.state).payload],
        shape="cbor",
    ),
    Target(
        name="model-release",
        parse=sealed(releases.TYPE, _SWARM, _RULED.learn, signer=RELEASERS[0]),
        seeds=lambda: [release(_RULED.state, RELEASERS[0]).payload],
        shape="cbor",
    ),
    Target(
        name="model-advisory",
        parse=sealed(advisories.TYPE, _SWARM, _RULED.learn, signer=WARNERS[0]),
        seeds=lambda: [advise(_RULED.state, WARNERS[0]).payload],
        shape="cbor",
    ),
)
