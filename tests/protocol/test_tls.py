"""What a certificate proves, and what it does not."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import IntegrityError
from protocol.identity import Identity
from protocol.signing import SigningKey
from protocol.tls import (
    LEAF_LIFETIME,
    SIGNED_KEY_OID,
    Leaf,
    LeafRenewal,
    anchor_of_network,
    anchor_of_peer,
    issue_client_leaf,
    issue_server_leaf,
    tls_name,
    verified_peer,
)

ALICE, BOB = (Identity(SigningKey.from_seed(bytes([number]) * 32)) for number in (1, 2))


def read(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def test_both_leaves_prove_the_identity_that_made_them():
    assert verified_peer(issue_client_leaf(ALICE).certificate_pem) == ALICE.peer_id
    assert verified_peer(issue_server_leaf(BOB).certificate_pem) == BOB.peer_id


def test_a_server_leaf_is_issued_by_its_identity_alone():
    leaf = read(issue_server_leaf(ALICE).certificate_pem)

    leaf.verify_directly_issued_by(read(anchor_of_peer(ALICE.peer_id)))
    for other in (anchor_of_peer(BOB.peer_id), anchor_of_network()):
        with pytest.raises(ValueError, match="does not match"):
            leaf.verify_directly_issued_by(read(other))


def test_a_client_leaf_is_issued_by_its_network():
    leaf = read(issue_client_leaf(ALICE, "here").certificate_pem)

    leaf.verify_directly_issued_by(read(anchor_of_network("here")))
    with pytest.raises(ValueError, match="does not match"):
        leaf.verify_directly_issued_by(read(anchor_of_network("there")))


def test_a_leaf_names_its_peer_and_lives_for_thirty_days():
    leaf = issue_server_leaf(ALICE)
    certificate = read(leaf.certificate_pem)

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert names.get_values_for_type(x509.DNSName) == [tls_name(ALICE.peer_id)]
    assert certificate.subject != certificate.issuer
    assert certificate.not_valid_before_utc < datetime.now(UTC) - timedelta(minutes=59)
    assert timedelta(days=29) < leaf.expires - datetime.now(UTC) <= LEAF_LIFETIME


def test_names_are_never_believed():
    """A certificate with all of Alice's names and no proof of hers."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"tls.{ALICE.peer_id}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(tls_name(ALICE.peer_id))]), False)
    )

    def pem(builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    stolen = read(issue_client_leaf(ALICE).certificate_pem).extensions
    stolen_proof = stolen.get_extension_for_oid(SIGNED_KEY_OID).value

    with pytest.raises(IntegrityError, match="names no identity"):
        verified_peer(pem(certificate))
    with pytest.raises(IntegrityError, match="does not match"):
        verified_peer(pem(certificate.add_extension(stolen_proof, critical=False)))


@given(junk=st.binary(max_size=300))
def test_junk_is_no_certificate(junk):
    with pytest.raises(IntegrityError):
        verified_peer(junk)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the parser's, about odd numbers
@given(at=st.integers(0, 899), byte=st.binary(min_size=1, max_size=1))
def test_a_changed_certificate_never_proves_another_peer(at, byte):
    pem = issue_client_leaf(ALICE).certificate_pem
    changed = pem[:at] + byte + pem[at + 1 :]

    with contextlib.suppress(IntegrityError):
        assert verified_peer(changed) == ALICE.peer_id


def test_a_leaf_is_renewed_at_half_its_life():
    now = datetime.now(UTC)
    issued: list[Leaf] = []

    def issue() -> Leaf:
        issued.append(Leaf(b"key", b"certificate %d" % len(issued), now + LEAF_LIFETIME))
        return issued[-1]

    renewal = LeafRenewal(issue, now=lambda: now)
    first = renewal.current()
    now += LEAF_LIFETIME / 2 - timedelta(hours=1)
    second = renewal.current()
    now += timedelta(hours=2)
    third = renewal.current()

    assert first is second is issued[0]
    assert third is issued[1]
    assert len(issued) == 2
