"""A checkpoint's own signature: as the reference implementation makes it, and as forgers do."""

import json
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import BadSignature, UsageError
from protocol.manifest import FileEntry, Manifest
from protocol.model_signature import Signed, check_signature, fingerprint, read_trusted

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "model_signatures.json").read_text())
CURVES = tuple(GOLDEN["keys"])
CERTIFIED = GOLDEN["certificate"]
UNREAD = "README.md"  # signed, and nothing that a node reads


def manifest(**changed: str) -> Manifest:
    files = {name: text for name, text in {**GOLDEN["files"], **changed}.items() if name != UNREAD}
    return Manifest(
        name="m",
        licence="",
        architecture="LlamaForCausalLM",
        n_blocks=1,
        hidden_size=1,
        vocab_size=1,
        max_positions=1,
        files=tuple(
            FileEntry(name, len(text), sha256(text.encode()).digest())
            for name, text in sorted(files.items())
        ),
        tensors={},
    )


def key_of(curve: str) -> bytes:
    return read_trusted(GOLDEN["keys"][curve]["public_key"].encode())


def by_key(curve: str = "P-256") -> dict[str, Any]:
    return dict(json.loads(GOLDEN["keys"][curve]["signature"]))


def by_certificate() -> dict[str, Any]:
    return dict(json.loads(CERTIFIED["signature"]))


def dumped(bundle: dict[str, Any]) -> bytes:
    return json.dumps(bundle).encode()


ROOT, LEAF = (read_trusted(CERTIFIED[name].encode()) for name in ("root", "leaf"))


@pytest.mark.parametrize("curve", CURVES)
def test_what_the_reference_implementation_signs_with_a_trusted_key_is_trusted(curve):
    checked = check_signature(dumped(by_key(curve)), manifest(), [key_of(curve)])

    assert checked.signed is Signed.TRUSTED
    assert checked.by == fingerprint(key_of(curve))


@pytest.mark.parametrize("trusted", [ROOT, LEAF])
def test_what_it_signs_with_a_certificate_is_trusted_for_its_root_or_itself(trusted):
    checked = check_signature(dumped(by_certificate()), manifest(), [key_of("P-256"), trusted])

    assert (checked.signed, checked.by) == (Signed.TRUSTED, "CN=Publisher")


def test_a_signer_whom_nobody_trusts_is_told_as_one():
    for bundle in (by_key(), by_certificate()):
        checked = check_signature(dumped(bundle), manifest(), [key_of("P-384")])
        assert checked.signed is Signed.UNKNOWN
        assert "nobody here trusts" in str(checked)


def test_no_signature_is_no_offence():
    assert check_signature(None, manifest(), []).signed is Signed.UNSIGNED


@pytest.mark.parametrize("trusted", [[], [key_of("P-256")]])
def test_a_file_that_was_changed_or_added_since_is_refused_whoever_signed(trusted):
    with pytest.raises(BadSignature, match=r"tokenizer\.json is not the file that was signed"):
        check_signature(dumped(by_key()), manifest(**{"tokenizer.json": "[]"}), trusted)
    with pytest.raises(BadSignature, match=r"extra\.json was not signed"):
        check_signature(dumped(by_key()), manifest(**{"extra.json": "{}"}), trusted)


def test_a_statement_that_was_changed_is_refused():
    bundle = by_key()
    payload = b64decode(bundle["dsseEnvelope"]["payload"])
    bundle["dsseEnvelope"]["payload"] = b64encode(
        payload.replace(b"llama", b"LLAMA") + b" "
    ).decode()

    with pytest.raises(BadSignature, match="does not hold"):
        check_signature(dumped(bundle), manifest(), [key_of("P-256")])


def test_a_signature_under_anothers_name_is_refused():
    bundle = by_key("P-384")
    bundle["verificationMaterial"] = by_key("P-256")["verificationMaterial"]

    with pytest.raises(BadSignature, match="does not hold"):
        check_signature(dumped(bundle), manifest(), [key_of("P-256")])


def test_a_chain_that_lacks_its_middle_leads_nowhere():
    bundle = by_certificate()
    chain = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"]
    del chain[1:]

    assert check_signature(dumped(bundle), manifest(), [ROOT]).signed is Signed.UNKNOWN


def test_a_certificate_that_is_not_for_signing_models_signs_none():
    bundle = by_certificate()
    chain = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"]
    chain.reverse()  # the middle one, which only issues, comes first

    with pytest.raises(BadSignature):
        check_signature(dumped(bundle), manifest(), [ROOT])


def test_a_keyless_signature_is_told_as_not_checked():
    bundle = by_key()
    bundle["verificationMaterial"] = {"certificate": {"rawBytes": "AA=="}, "tlogEntries": [{}]}

    checked = check_signature(dumped(bundle), manifest(), [key_of("P-256")])

    assert checked.signed is Signed.UNCHECKED
    assert "keyless" in str(checked)


@given(st.binary(max_size=300))
def test_junk_is_no_signature(junk):
    with pytest.raises(BadSignature):
        check_signature(junk, manifest(), [key_of("P-256")])


@given(
    st.sampled_from(["mediaType", "verificationMaterial", "dsseEnvelope"]),
    st.one_of(st.none(), st.integers(), st.text(max_size=5), st.lists(st.none(), max_size=2)),
)
def test_a_bundle_with_odd_parts_is_refused_or_not_trusted(part, odd):
    try:
        checked = check_signature(dumped({**by_key(), part: odd}), manifest(), [key_of("P-256")])
    except BadSignature:
        return
    assert checked.signed is not Signed.TRUSTED


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN CERTIFICATE-----\nAA==\n", b"x" * 100])
def test_what_is_no_key_cannot_be_trusted(pem):
    with pytest.raises(UsageError, match="signs models"):
        read_trusted(pem)
