"""How one Ed25519 identity proves itself in TLS, whose stacks take no Ed25519 leaves.

In: an identity, or the peer id that must answer. Out: short-lived P-256 leaf certificates and the
trust anchors they chain to, as PEM. Two proofs, one per direction:

* A server's leaf is issued by its identity, acting as a CA. The caller rebuilds that CA's
  certificate from the expected peer id alone and trusts nothing else, so nobody but the owner of
  the key can answer, and no certificate travels ahead of the connection.
* A client's leaf is issued by its network's anchor, whose key is public: the anchor proves
  nothing, it only makes a TLS server ask for a certificate and hand it over. The proof is the
  SignedKey extension of the libp2p TLS spec, the identity's signature over the leaf's key,
  which `verified_peer` checks. Names in certificates are never believed.

Handing these to a TLS stack is left to `transport/grpc.py`.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from protocol.errors import BadSignature, IntegrityError
from protocol.identity import (
    LIBP2P_ED25519_PREFIX,
    Identity,
    PeerId,
    peer_id_from_public_key,
    public_key_from_peer_id,
)
from protocol.signing import SigningKey, verify

LEAF_LIFETIME = timedelta(days=30)
CLOCK_SKEW = timedelta(hours=1)  # a leaf is valid this long before it was made
PUBLIC_NETWORK = "manyhands"

SIGNED_KEY_OID = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")  # libp2p TLS spec
_SIGNED_KEY_PREFIX = b"libp2p-tls-handshake:"
# SEQUENCE { OCTET STRING (36: libp2p public key), OCTET STRING (64: signature) }: all lengths fixed
_SIGNED_KEY_HEAD = b"\x30\x68\x04\x24" + LIBP2P_ED25519_PREFIX
_SIGNED_KEY_MIDDLE = b"\x04\x40"
_SIGNED_KEY_BYTES = 106
_ANCHOR_FROM, _ANCHOR_UNTIL = datetime(2020, 1, 1, tzinfo=UTC), datetime(2120, 1, 1, tzinfo=UTC)
_MAX_CERTIFICATE_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Leaf:
    """A TLS key and the certificate that ties it to an identity, as PEM."""

    key_pem: bytes = field(repr=False)
    certificate_pem: bytes
    expires: datetime


def tls_name(peer_id: PeerId) -> str:
    """The DNS name in a peer's server leaf; also what a relay would route by (SNI)."""
    return f"{peer_id.lower()}.peer"


@lru_cache(maxsize=1024)
def anchor_of_peer(peer_id: PeerId) -> bytes:
    """The only root to trust when `peer_id` must answer.

    Made from the public key alone: nobody checks the self-signature of a trust anchor. A tenth of
    what a handshake takes, hence the cache.
    """
    public_key = ed25519.Ed25519PublicKey.from_public_bytes(public_key_from_peer_id(peer_id))
    return _anchor(public_key, ed25519.Ed25519PrivateKey.generate())


def anchor_of_network(network: str = PUBLIC_NETWORK) -> bytes:
    """The root under which a server asks strangers for their client leaves."""
    key = _network_key(network)
    return _anchor(key.public_key(), key)


def issue_server_leaf(identity: Identity) -> Leaf:
    return _issue(identity, _private_key(identity.key), identity.public_key)


def issue_client_leaf(identity: Identity, network: str = PUBLIC_NETWORK) -> Leaf:
    anchor = _network_key(network)
    return _issue(identity, anchor, anchor.public_key().public_bytes_raw())


@lru_cache(maxsize=4096)
def verified_peer(certificate_pem: bytes) -> PeerId:
    """The identity that a certificate received over TLS proves.

    TLS has proven that the other side holds the leaf's key; this checks that the identity
    endorsed that key. About 150 µs, hence the cache.

    Raises:
        IntegrityError: it proves none.
    """
    if len(certificate_pem) > _MAX_CERTIFICATE_BYTES:
        raise IntegrityError(f"a certificate of {len(certificate_pem)} bytes")
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        extension = certificate.extensions.get_extension_for_oid(SIGNED_KEY_OID).value
        leaf_key = _subject_public_key_info(certificate.public_key())
    except x509.ExtensionNotFound as error:
        raise IntegrityError("the certificate names no identity") from error
    except Exception as error:  # the parser meets a stranger's bytes and raises many kinds
        raise IntegrityError(f"not a certificate: {type(error).__name__}") from error
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise IntegrityError("the certificate names no identity")
    public_key, signature = _read_signed_key(extension.value)
    verify(public_key, _SIGNED_KEY_PREFIX + leaf_key, signature)
    return peer_id_from_public_key(public_key)


class LeafRenewal:
    """The current leaf, issued anew once half its life is over. Safe in any thread."""

    def __init__(
        self, issue: Callable[[], Leaf], *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._issue, self._now = issue, now
        self._lock = threading.Lock()
        self._leaf = issue()

    def current(self) -> Leaf:
        with self._lock:
            if self._leaf.expires - self._now() < LEAF_LIFETIME / 2:
                self._leaf = self._issue()
            return self._leaf


def _issue(identity: Identity, issuer: ed25519.Ed25519PrivateKey, issuer_key: bytes) -> Leaf:
    """A fresh P-256 key, endorsed by `identity` and issued by `issuer`, named by its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    expires = now + LEAF_LIFETIME
    certificate = (
        x509.CertificateBuilder()
        # Not the issuer's name: the certificate would be taken for a self-signed one.
        .subject_name(_name(f"tls.{identity.peer_id}"))
        .issuer_name(_name(peer_id_from_public_key(issuer_key)))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(expires)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(tls_name(identity.peer_id))]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier(issuer_key[:20], None, None), critical=False)
        .add_extension(_signed_key(identity.key, key.public_key()), critical=False)
        .sign(issuer, None)
    )
    return Leaf(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        certificate.public_bytes(serialization.Encoding.PEM),
        expires,
    )


def _anchor(public_key: ed25519.Ed25519PublicKey, signer: ed25519.Ed25519PrivateKey) -> bytes:
    raw = public_key.public_bytes_raw()
    name = _name(peer_id_from_public_key(raw))
    signs_certificates_only = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public_key)
        .serial_number(1)
        .not_valid_before(_ANCHOR_FROM)
        .not_valid_after(_ANCHOR_UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(signs_certificates_only, critical=True)
        .add_extension(x509.SubjectKeyIdentifier(raw[:20]), critical=False)
        .sign(signer, None)
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _signed_key(key: SigningKey, leaf_key: ec.EllipticCurvePublicKey) -> x509.UnrecognizedExtension:
    signature = key.sign(_SIGNED_KEY_PREFIX + _subject_public_key_info(leaf_key))
    value = _SIGNED_KEY_HEAD + key.public_key + _SIGNED_KEY_MIDDLE + signature
    return x509.UnrecognizedExtension(SIGNED_KEY_OID, value)


def _read_signed_key(value: bytes) -> tuple[bytes, bytes]:
    """The public key and signature in a SignedKey extension of an Ed25519 identity."""
    at = len(_SIGNED_KEY_HEAD)
    public_key, middle, signature = value[at : at + 32], value[at + 32 : at + 34], value[at + 34 :]
    if (
        len(value) != _SIGNED_KEY_BYTES
        or not value.startswith(_SIGNED_KEY_HEAD)
        or middle != _SIGNED_KEY_MIDDLE
    ):
        raise BadSignature("the certificate's identity is not an Ed25519 key and signature")
    return public_key, signature


def _network_key(network: str) -> ed25519.Ed25519PrivateKey:
    seed = sha256(b"manyhands public network anchor\x00" + network.encode()).digest()
    return ed25519.Ed25519PrivateKey.from_private_bytes(seed)


def _private_key(key: SigningKey) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(key.seed)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _subject_public_key_info(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise IntegrityError("a leaf's key lies on an elliptic curve")
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
