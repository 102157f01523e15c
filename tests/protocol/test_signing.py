"""Which signatures count, what they cover, and that two libraries agree about it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.canonical import NotCanonical
from protocol.errors import BadSignature, IntegrityError
from protocol.signing import (
    OPEN_SWARM_ID,
    Envelope,
    SigningKey,
    add_signature,
    object_id,
    open_envelope,
    seal,
    signed_bytes,
    verify,
)

ALICE, BOB, EVE = (SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
SWARM = bytes(range(32))
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493

BACKENDS = ("pynacl", "cryptography")

# (message, public key, signature, whether it counts). The edge cases of "Taming the many EdDSAs"
# (Chalkias, Garillot, Nikolaenko, SSR 2020), as published with the paper. Only number 3 holds
# without a cofactor and has neither small-order nor non-canonical parts.
SPECCHECK = [
    (
        "8c93255d71dcab10e8f379c26200f3c7bd5f09d9bc3068d3ef4edeb4853022b6",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
        "0000000000000000000000000000000000000000000000000000000000000000",
        False,
    ),
    (
        "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43"
        "a5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
        False,
    ),
    (
        "aebf3f2601a0c8c5d39cc7d8911642f740b78168218da8471772b35f9d35b9ab",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"
        "8c4bd45aecaca5b24fb97bc10ac27ac8751a7dfe1baff8b953ec9f5833ca260e",
        False,
    ),
    (
        "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "9046a64750444938de19f227bb80485e92b83fdb4b6506c160484c016cc1852f"
        "87909e14428a7a1d62e9f22f3d3ad7802db02eb2e688b6c52fcd6648a98bd009",
        True,
    ),
    (
        "e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "160a1cb0dc9c0258cd0a7d23e94d8fa878bcb1925f2c64246b2dee1796bed512"
        "5ec6bc982a269b723e0668e540911a9a6a58921d6925e434ab10aa7940551a09",
        False,
    ),
    (
        "e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "21122a84e0b5fca4052f5b1235c80a537878b38f3142356b2c2384ebad4668b7"
        "e40bc836dac0f71076f9abe3a53f9c03c1ceeeddb658d0030494ace586687405",
        False,
    ),
    (
        "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
        "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
        "e96f66be976d82e60150baecff9906684aebb1ef181f67a7189ac78ea23b6c0e"
        "547f7690a0e2ddcd04d87dbc3490dc19b3b3052f7ff0538cb68afb369ba3a514",
        False,
    ),
    (
        "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
        "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
        "8ce5b96c8f26d0ab6c47958c9e68b937104cd36e13c33566acd2fe8d38aa1942"
        "7e71f98a473474f2f13f06f97c20d58cc3f54b8bd0d272f42b695dd7e89a8c22",
        False,
    ),
    (
        "fdaebc429f4a735932a160da1301080c13280eea8bc280d1b392c6b9e6ba3a5a",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"
        "454d370c8d9fc323a41450f8d513eafeb5b0697390c1e505a0d4ddc71f566607",
        False,
    ),
    (
        "84b698d39be126ff55fe45079e6c8bf64a0d7db6994560b4e96b7021eb39c1a1",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"
        "084d5b99c2a9463d9c8bd5026916996984eeec87ddf1d3be329006ace1b37b09",
        False,
    ),
]


def holds(public_key: bytes, message: bytes, signature: bytes, backend: str) -> bool:
    try:
        verify(public_key, message, signature, backend=backend)  # type: ignore[arg-type]
    except BadSignature:
        return False
    return True


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("number", range(len(SPECCHECK)))
def test_23_both_libraries_give_the_agreed_verdict_on_odd_signatures(number, backend):
    message, public_key, signature, counts = SPECCHECK[number]

    verdict = holds(*(bytes.fromhex(part) for part in (public_key, message, signature)), backend)

    assert verdict is counts


SMALL_ORDER_Y = [
    0,
    1,
    P - 1,
    int.from_bytes(bytes.fromhex(SPECCHECK[0][2][:64]), "little"),
    P - int.from_bytes(bytes.fromhex(SPECCHECK[0][2][:64]), "little"),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sign_bit", [0, 1])
@pytest.mark.parametrize("y", [*SMALL_ORDER_Y, P, P + 1, 2**255 - 1])
def test_23_a_key_that_anybody_could_sign_with_is_no_key(y, sign_bit, backend):
    odd_key = (y | sign_bit << 255).to_bytes(32, "little")
    identity = (1).to_bytes(32, "little")
    forged = identity + bytes(32)  # R the identity, S = 0: holds for any message in some libraries

    with pytest.raises(BadSignature):
        verify(odd_key, b"pay Eve", forged, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_23_a_signature_has_one_spelling_of_its_scalar(backend):
    signature = ALICE.sign(b"once")
    scalar = int.from_bytes(signature[32:], "little")
    other_spelling = signature[:32] + (scalar + L).to_bytes(32, "little")

    verify(ALICE.public_key, b"once", signature, backend=backend)
    with pytest.raises(BadSignature):
        verify(ALICE.public_key, b"once", other_spelling, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(message=st.binary(max_size=99), index=st.integers(0, 511), kind=st.sampled_from("kms"))
def test_any_flipped_bit_breaks_a_signature(backend, message, index, kind):
    parts = {"k": ALICE.public_key, "m": message or b"x", "s": ALICE.sign(message or b"x")}
    flipped = bytearray(parts[kind])
    flipped[index // 8 % len(flipped)] ^= 1 << index % 8
    broken = parts | {kind: bytes(flipped)}

    assert holds(parts["k"], parts["m"], parts["s"], backend)
    assert not holds(broken["k"], broken["m"], broken["s"], backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [0, 31, 33, 63, 65])
def test_keys_and_signatures_of_other_lengths_are_refused(length, backend):
    with pytest.raises(BadSignature):
        verify(ALICE.public_key, b"", bytes(length), backend=backend)
    with pytest.raises(BadSignature):
        verify(bytes(length), b"", ALICE.sign(b""), backend=backend)


def test_the_first_vector_of_rfc_8032_holds():
    key = SigningKey.from_seed(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )

    assert key.public_key.hex() == (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    )
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac"
        "c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )


def test_a_key_does_not_show_its_seed():
    shown = repr(ALICE) + str(ALICE)

    assert repr(ALICE.seed) not in shown
    assert ALICE.seed.hex() not in shown


types = st.sampled_from(["mh/a/1", "mh/a/12", "mh/ab/1", "m"])
swarms = st.sampled_from([SWARM, bytes(32)])


@settings(deadline=None)
@given(types, swarms, st.binary(max_size=8), types, swarms, st.binary(max_size=8))
def test_14_two_objects_never_share_their_signed_bytes(type_a, swarm_a, a, type_b, swarm_b, b):
    same = (type_a, swarm_a, a) == (type_b, swarm_b, b)

    assert (signed_bytes(type_a, swarm_a, a) == signed_bytes(type_b, swarm_b, b)) is same


def test_an_envelope_survives_its_encoding():
    envelope = seal("mh/test/1", SWARM, [1, b"x"], BOB, ALICE)

    assert Envelope.decode(envelope.encode()) == envelope
    assert open_envelope(envelope, "mh/test/1", SWARM, [ALICE.public_key, BOB.public_key]) == [
        1,
        b"x",
    ]


def test_adding_a_signature_does_not_rename_an_object():
    by_alice = seal("mh/test/1", SWARM, [1], ALICE)
    by_both = add_signature(by_alice, SWARM, BOB)

    assert by_both == seal("mh/test/1", SWARM, [1], BOB, ALICE)
    assert add_signature(by_both, SWARM, BOB) == by_both
    assert by_both.object_id(SWARM) == by_alice.object_id(SWARM)
    assert by_both.object_id(SWARM) == object_id("mh/test/1", SWARM, by_both.payload)


def test_a_signature_counts_in_its_own_swarm_and_type_only():
    envelope = seal("mh/test/1", SWARM, [1], ALICE)
    renamed = Envelope("mh/other/1", envelope.payload, envelope.signatures)

    with pytest.raises(BadSignature):
        open_envelope(envelope, "mh/test/1", OPEN_SWARM_ID, [ALICE.public_key])
    with pytest.raises(IntegrityError, match="expected"):
        open_envelope(envelope, "mh/other/1", SWARM, [ALICE.public_key])
    with pytest.raises(BadSignature):
        open_envelope(renamed, "mh/other/1", SWARM, [ALICE.public_key])


@pytest.mark.parametrize("signers", [(ALICE,), (ALICE, BOB, EVE), (ALICE, EVE), (EVE,)])
def test_exactly_those_who_must_sign_have_signed(signers):
    envelope = seal("mh/test/1", SWARM, [1], *signers)

    with pytest.raises(IntegrityError, match="signed by exactly"):
        open_envelope(envelope, "mh/test/1", SWARM, [ALICE.public_key, BOB.public_key])


def test_a_signed_payload_that_is_not_canonical_is_refused():
    payload = bytes.fromhex("811801")
    signature = ALICE.sign(signed_bytes("mh/test/1", SWARM, payload))
    envelope = Envelope("mh/test/1", payload, ((ALICE.public_key, signature),))

    with pytest.raises(NotCanonical):
        open_envelope(envelope, "mh/test/1", SWARM, [ALICE.public_key])


@settings(deadline=None)
@given(st.data())
def test_12_every_changed_byte_of_an_envelope_is_found(data):
    encoded = bytearray(seal("mh/test/1", SWARM, [1, b"meter", [7] * 3], ALICE, BOB).encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))

    with pytest.raises(IntegrityError):
        open_envelope(
            Envelope.decode(bytes(encoded)), "mh/test/1", SWARM, [ALICE.public_key, BOB.public_key]
        )


def test_the_open_swarm_is_pinned():
    assert OPEN_SWARM_ID.hex() == (
        "6cb556daa2d78fd8c21a0c119083aaa8bd2953d34ef5329db655415eca6c49ae"
    )
