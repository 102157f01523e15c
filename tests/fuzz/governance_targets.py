"""What governs models: rules, releases and advisories, and what publishers sign."""

import json
from base64 import b64encode
from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.membership import advisories, releases, rules
from protocol.membership.state import SwarmState
from protocol.model_signature import PAYLOAD, _der, _hint, _pae, check_signature
from protocol.signing import Envelope, signed_bytes
from tests.announcing import key_of
from tests.fuzz.harness import Target
from tests.membership import FOUNDER, RELEASERS, WARNERS, advise, found, framed, govern, release
from tests.protocol.test_model_signature import GOLDEN, by_certificate, by_key, manifest
from tests.protocol.test_model_signature import key_of as trusted

_STATE = SwarmState(found())
_STATE.learn(govern(_STATE, sequence=2**62))  # whatever is signed, these stay
_MODEL = manifest()
_KEY = ec.derive_private_key(7, ec.SECP256R1())


def _merged(kind: str, *signers: int) -> Callable[[bytes], object]:
    """What a member makes of an object that these keys signed, whatever it is."""

    def parse(data: bytes) -> object:
        message = signed_bytes(kind, _STATE.swarm_id, data)
        signed = sorted((key_of(n).public_key, key_of(n).sign(message)) for n in signers)
        return _STATE.merge(framed(Envelope(kind, data, tuple(signed))))

    return parse


def _signature(data: bytes) -> object:
    return check_signature(data, _MODEL, [trusted("P-256")])


def _statement(data: bytes) -> object:
    """A statement that somebody who is trusted signed."""
    signature = _KEY.sign(_pae(data), ec.ECDSA(hashes.SHA256()))
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": _hint(_KEY.public_key())}},
        "dsseEnvelope": {
            "payload": b64encode(data).decode(),
            "payloadType": PAYLOAD,
            "signatures": [{"sig": b64encode(signature).decode()}],
        },
    }
    return check_signature(json.dumps(bundle).encode(), _MODEL, [_der(_KEY.public_key())])


def _statements() -> list[bytes]:
    from base64 import b64decode

    return [b64decode(by_key(curve)["dsseEnvelope"]["payload"]) for curve in GOLDEN["keys"]]


TARGETS = (
    Target(
        name="rules",
        shape="cbor",
        parse=_merged(rules.TYPE, FOUNDER),
        seeds=lambda: [govern(_STATE, trusted=(b"k",), asks_licence=True).payload],
    ),
    Target(
        name="release",
        shape="cbor",
        parse=_merged(releases.TYPE, *RELEASERS),
        seeds=lambda: [release(_STATE, FOUNDER, notes="n", expires_ms=2**50).payload],
    ),
    Target(
        name="advisory",
        shape="cbor",
        parse=_merged(advisories.TYPE, *WARNERS),
        seeds=lambda: [
            advise(_STATE, FOUNDER).payload,
            advise(_STATE, FOUNDER, models="llama-*").payload,
        ],
    ),
    Target(
        name="model-signature",
        shape="json",
        parse=_signature,
        seeds=lambda: [json.dumps(each).encode() for each in (by_key(), by_certificate())],
    ),
    Target(name="model-statement", shape="json", parse=_statement, seeds=_statements),
)
