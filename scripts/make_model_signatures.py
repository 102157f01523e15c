"""Makes tests/golden/model_signatures.json with the reference implementation of model signing.

Run it where that is installed, for it is nothing of ours: pip install model-signing pyopenssl. Keys
are made anew each time, so every line of the file changes.
"""

import json
import tempfile
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from model_signing import signing

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "model_signatures.json"
FILES = {
    "README.md": "# A model\n",
    "config.json": '{"model_type": "llama"}\n',
    "model.safetensors": "not really weights",
    "tokenizer.json": "{}\n",
}
PEM = serialization.Encoding.PEM
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        model = place / "model"
        model.mkdir()
        for name, text in FILES.items():
            (model / name).write_text(text)
        keys = {name: by_key(place, model, curve) for name, curve in CURVES.items()}
        golden = {
            "made_with": f"model-signing {version('model-signing')}",
            "files": FILES,
            "keys": keys,
            "certificate": by_certificate(place, model),
        }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


def by_key(place: Path, model: Path, curve: ec.EllipticCurve) -> dict[str, str]:
    key = ec.generate_private_key(curve)
    write_key(place / "key.pem", key)
    config = signing.Config().use_elliptic_key_signer(private_key=place / "key.pem")
    config.sign(model, place / "model.sig")
    public = key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {"public_key": public.decode(), "signature": (place / "model.sig").read_text()}


def by_certificate(place: Path, model: Path) -> dict[str, str]:
    root_key, between_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    root = certificate("Root", root_key, "Root", root_key, is_ca=True)
    between = certificate("Between", between_key, "Root", root_key, is_ca=True)
    leaf = certificate("Publisher", leaf_key, "Between", between_key, is_ca=False)
    for name, one in (("between.pem", between), ("leaf.pem", leaf)):
        (place / name).write_bytes(one.public_bytes(PEM))
    write_key(place / "leaf.key", leaf_key)
    config = signing.Config().use_certificate_signer(
        private_key=place / "leaf.key",
        signing_certificate=place / "leaf.pem",
        certificate_chain=[place / "between.pem"],
    )
    config.sign(model, place / "model.sig")
    return {
        "root": root.public_bytes(PEM).decode(),
        "leaf": leaf.public_bytes(PEM).decode(),
        "signature": (place / "model.sig").read_text(),
    }


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    by: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool,
) -> x509.Certificate:
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False
    )  # fmt: skip
    usage |= {"digital_signature": not is_ca, "key_cert_sign": is_ca, "crl_sign": is_ca}
    return (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGAN)
        .not_valid_after(BEGAN + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .sign(by, hashes.SHA256())
    )


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    format, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(PEM, format, plain))


if __name__ == "__main__":
    main()
