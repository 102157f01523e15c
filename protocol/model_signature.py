"""A checkpoint's own signature, `model.sig`, as OpenSSF model signing v1.0 defines it.

In: the file, a manifest, the keys and certificates that somebody trusts. Out: who signed, if that
can be told, or `BadSignature` where the signature does not hold or is of other files. The file is a
Sigstore bundle (v0.3, JSON) around a DSSE envelope around an in-toto statement with the SHA-256 of
each file. Signatures by an elliptic key or a certificate of one are checked, offline; those made
keyless through Sigstore need its log and trust root, and are told as what they are: not checked.

No clock takes part: a signature proves no time, so a certificate is judged as of its own beginning,
as the reference implementation does, and nobody is asked whether it was revoked. The paths of
certificates that are taken are a part of RFC 5280 section 6: names, signatures, validity, CA and
path length; a critical extension that says anything else refuses the path.
"""

import json
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from protocol.errors import BadSignature, UsageError
from protocol.manifest import SIGNATURE as FILE
from protocol.manifest import Manifest

MAX_FILE_BYTES, MAX_CHAIN = 8 * 2**20, 8
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD, STATEMENT = "application/vnd.in-toto+json", "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
UNDERSTOOD = frozenset((
    ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
))  # fmt: skip
UNREADABLE = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    NotBase64,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)  # what the libraries raise for what a stranger wrote
REFETCH = "fetch the checkpoint again; who changed it on purpose removes model.sig"


class Signed(StrEnum):
    """What a signature is worth to whoever asks."""

    TRUSTED = "trusted"
    UNKNOWN = "unknown"  # by somebody who is not among the trusted
    UNCHECKED = "unchecked"  # in a form that cannot be checked here
    UNSIGNED = "unsigned"


@dataclass(frozen=True, slots=True)
class Checked:
    """by: who signed, or why that cannot be told, in words."""

    signed: Signed
    by: str = ""

    def __str__(self) -> str:
        match self.signed:
            case Signed.TRUSTED:
                return f"signed by {self.by}, who is trusted"
            case Signed.UNKNOWN:
                return f"signed by {self.by}, whom nobody here trusts"
            case Signed.UNCHECKED:
                return f"signed, and not checked here: {self.by}"
            case _:
                return "not signed by its publisher"


Key = ec.EllipticCurvePublicKey
Trusted = Key | x509.Certificate


def check_signature(bundle: bytes | None, manifest: Manifest, trusted: Sequence[bytes]) -> Checked:
    """What `model.sig` says of the files of this manifest. `trusted`: DER, as `read_trusted` makes.

    Raises:
        BadSignature: it does not hold, or is of other files.
    """
    if bundle is None:
        return Checked(Signed.UNSIGNED)
    try:
        fields = json.loads(bundle)
        material, envelope = fields["verificationMaterial"], fields["dsseEnvelope"]
        payload = _bytes(envelope["payload"])
        (signature,) = envelope["signatures"]
        checked = _checked(material, _pae(payload), _bytes(signature["sig"]), trusted)
        is_known_form = fields["mediaType"] == BUNDLE and envelope["payloadType"] == PAYLOAD
        resources = _resources(json.loads(payload)) if is_known_form else None
    except BadSignature:
        raise
    except UNREADABLE as error:
        raise BadSignature(f"{FILE} cannot be read: {error!r:.200}", hint=REFETCH) from error
    if resources is None:
        return Checked(Signed.UNCHECKED, "it is of another version, or hashes in another way")
    for file in manifest.files:
        if (signed := resources.get(file.name)) != file.sha256:
            what = "is not the file that was signed" if signed else "was not signed"
            raise BadSignature(f"{file.name} {what}, says {FILE}", hint=REFETCH)
    return checked


def read_trusted(pem: bytes) -> bytes:
    """A public key or a certificate, from PEM to DER.

    Raises:
        UsageError: it is neither, or of a kind that signs no models.
    """
    try:
        if b"CERTIFICATE" in pem:
            return _der(x509.load_pem_x509_certificate(pem))
        return _der(_elliptic(serialization.load_pem_public_key(pem)))
    except (*UNREADABLE, BadSignature) as error:
        raise UsageError(
            f"not a key or certificate that signs models: {error}",
            hint="PEM of a public key on P-256, P-384 or P-521, or of a certificate",
        ) from error


def fingerprint(trusted: bytes) -> str:
    """How people tell it: of a key what `model.sig` hints at, of a certificate SHA-256 and name."""
    read = _read_der(trusted)
    if isinstance(read, x509.Certificate):
        return f"{_name(read)} ({read.fingerprint(hashes.SHA256()).hex()[:16]})"
    return f"key {_hint(read)[:16]}"


def _checked(
    material: Mapping[str, Any], message: bytes, signature: bytes, trusted: Sequence[bytes]
) -> Checked:
    """Whose signature on `message` this is.

    Raises:
        BadSignature: of nobody.
    """
    known = [_read_der(der) for der in trusted]
    if chain := material.get("x509CertificateChain"):
        return _by_certificate(chain["certificates"], message, signature, known)
    if key := material.get("publicKey"):
        return _by_key(str(key.get("hint") or ""), message, signature, known)
    return Checked(Signed.UNCHECKED, "it was made keyless, through Sigstore's log")


def _by_key(hint: str, message: bytes, signature: bytes, known: Sequence[Trusted]) -> Checked:
    for key in known:
        if isinstance(key, Key) and _hint(key) == hint:
            _verify(key, message, signature)
            return Checked(Signed.TRUSTED, f"key {hint[:16]}")
    return Checked(Signed.UNKNOWN, f"key {hint[:16]}" if hint else "a key that is not named")


def _by_certificate(
    stated: Sequence[Mapping[str, Any]], message: bytes, signature: bytes, known: Sequence[Trusted]
) -> Checked:
    if not 1 <= len(stated) <= MAX_CHAIN:
        raise BadSignature(f"{FILE} has {len(stated)} certificates", hint=REFETCH)
    chain = [x509.load_der_x509_certificate(_bytes(one["rawBytes"])) for one in stated]
    leaf = chain[0]
    _verify(_elliptic(leaf.public_key()), message, signature)
    _require_signer(leaf)
    anchors = [one for one in known if isinstance(one, x509.Certificate)]
    at = leaf.not_valid_before_utc
    is_trusted = leaf in anchors or _leads(leaf, chain[1:], anchors, at)
    return Checked(Signed.TRUSTED if is_trusted else Signed.UNKNOWN, _name(leaf))


def _leads(
    certificate: x509.Certificate,
    between: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate],
    at: datetime,
    below: int = 0,
) -> bool:
    """Whether a path of issuers goes from here to an anchor; `below`: the CAs on it so far."""
    if any(_issued(anchor, certificate, at, below) for anchor in anchors):
        return True
    return any(
        _issued(one, certificate, at, below)
        and _leads(one, [other for other in between if other != one], anchors, at, below + 1)
        for one in between
    )


def _issued(
    issuer: x509.Certificate, certificate: x509.Certificate, at: datetime, below: int
) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
        basics = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = _usage(issuer)
    except (InvalidSignature, x509.ExtensionNotFound, *UNREADABLE):
        return False
    limit = basics.path_length
    return (
        basics.ca
        and (limit is None or below <= limit)
        and (usage is None or usage.key_cert_sign)
        and issuer.not_valid_before_utc <= at <= issuer.not_valid_after_utc
        and not _demands_more(issuer)
        and not _demands_more(certificate)
    )


def _demands_more(certificate: x509.Certificate) -> bool:
    return any(one.critical and one.oid not in UNDERSTOOD for one in certificate.extensions)


def _require_signer(leaf: x509.Certificate) -> None:
    usage = _usage(leaf)
    if usage is not None and usage.digital_signature:
        return
    try:
        extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        extended = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    if ExtendedKeyUsageOID.CODE_SIGNING not in extended:
        raise BadSignature(f"the certificate in {FILE} is not for signing", hint=REFETCH)


def _usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _resources(statement: Mapping[str, Any]) -> dict[str, bytes] | None:
    """The hashes of files that were signed; None: they are not of a kind we can compare."""
    if statement["_type"] != STATEMENT or statement["predicateType"] != PREDICATE:
        return None
    predicate, (subject,) = statement["predicate"], statement["subject"]
    how = predicate["serialization"]
    if how["method"] != "files" or how["hash_type"] != "sha256":
        return None
    listed = [(str(one["name"]), bytes.fromhex(one["digest"])) for one in predicate["resources"]]
    whole = sha256(b"".join(digest for _, digest in listed)).hexdigest()
    if whole != subject["digest"]["sha256"] or len({name for name, _ in listed}) < len(listed):
        raise BadSignature(f"{FILE} contradicts itself", hint=REFETCH)
    return dict(listed)


def _verify(key: Key, message: bytes, signature: bytes) -> None:
    try:
        key.verify(signature, message, ec.ECDSA(HASHES[key.curve.name]))
    except InvalidSignature as error:
        raise BadSignature(f"the signature in {FILE} does not hold", hint=REFETCH) from error


def _pae(payload: bytes) -> bytes:
    """What DSSE v1 signs."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def _bytes(text: Any) -> bytes:
    return b64decode(str(text), validate=True)


def _elliptic(key: Any) -> Key:
    if not isinstance(key, Key) or key.curve.name not in HASHES:
        raise BadSignature("models are signed by keys on P-256, P-384 or P-521")
    return key


def _der(trusted: Trusted) -> bytes:
    if isinstance(trusted, x509.Certificate):
        return trusted.public_bytes(serialization.Encoding.DER)
    return trusted.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _read_der(der: bytes) -> Trusted:
    """
    Raises:
        BadSignature: a founder signed rules that name something else.
    """
    try:
        return _elliptic(serialization.load_der_public_key(der))
    except UNREADABLE:
        pass
    try:
        return x509.load_der_x509_certificate(der)
    except UNREADABLE as error:
        raise BadSignature("what is trusted is no key and no certificate") from error


def _hint(key: Key) -> str:
    """How a bundle names it: the SHA-256 of its PEM."""
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return sha256(pem).hexdigest()


def _name(certificate: x509.Certificate) -> str:
    name = certificate.subject.rfc4514_string() or "a certificate without a name"
    return "".join(c for c in name if c.isprintable())[:200]
