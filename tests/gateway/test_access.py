"""Who may ask what, over HTTP: keys with limits against a real swarm, TLS, other sites' pages."""

import asyncio
import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from manyhands.gateway import serving
from manyhands.gateway.app import make_app
from manyhands.gateway.catalogue import Catalogue, served_of
from manyhands.gateway.gateway import Gateway
from manyhands.gateway.grants import Grant
from manyhands.gateway.keys import KeyFile, Keys
from manyhands.gateway.readiness import Readiness
from manyhands.gateway.serving import listening
from manyhands.gateway.tls import Certificate
from manyhands.models import find_model
from protocol.errors import ConfigError
from tests.gateway.live import Live, events
from tests.gateway.test_serving import hello

CHAT = "/v1/chat/completions"
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
DAY = timedelta(days=1)


@contextmanager
def key(gateway: Live, **limits: object) -> Iterator[str]:
    keys, text = Keys().made("laptop", Grant(**limits))  # type: ignore[arg-type]
    keys.write(gateway.keys)
    try:
        yield text
    finally:
        gateway.keys.unlink()


def test_a_rate_is_told_with_every_answer_and_its_end_with_when_to_come_back(gateway):
    with key(gateway, requests_per_minute=2, tokens_per_minute=1000) as text:
        bearer = {"authorization": f"Bearer {text}"}
        first = gateway.post(CHAT, HELLO, **bearer)
        streamed = gateway.post(CHAT, {**HELLO, "stream": True}, **bearer)
        third = gateway.post(CHAT, HELLO, **bearer)
        looked = gateway.ask("GET", "/v1/models", **bearer)

    assert first[0] == streamed[0] == looked[0] == 200
    assert first[1]["x-ratelimit-limit-requests"] == "2"
    assert first[1]["x-ratelimit-remaining-requests"] == "1"
    assert int(first[1]["x-ratelimit-remaining-tokens"]) > 900
    assert streamed[1]["x-ratelimit-remaining-requests"] == "0"
    assert (third[0], third[2]["error"]["code"]) == (429, "rate_limit_exceeded")
    assert third[2]["error"]["type"] == "rate_limit_error"
    assert 1 <= int(third[1]["retry-after"]) <= 30
    assert "x-ratelimit-limit-requests" not in gateway.ask("GET", "/health")[1]


def test_the_official_client_waits_as_long_as_it_is_told_and_then_is_answered(gateway):
    with (
        key(gateway, tokens_per_minute=6000) as text,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=text, max_retries=2) as client,
    ):
        with pytest.raises(openai.BadRequestError):  # longer than the context: takes nothing
            client.completions.create(model="tiny", prompt="a", max_tokens=9000)
        used_up = KeyFile(gateway.keys).admit(f"Bearer {text}")
        gateway.look(lambda: gateway.gateway.allowances.take(used_up, 6000))
        with pytest.raises(openai.RateLimitError):
            client.with_options(max_retries=0).completions.create(model="tiny", prompt="a")
        answer = client.completions.create(model="tiny", prompt="a", max_tokens=30)

    assert answer.choices[0].text


def test_a_key_for_one_model_sees_and_may_use_that_one_alone(gateway):
    with key(gateway, models=("org/other",)) as text:
        bearer = {"authorization": f"Bearer {text}"}
        listed = gateway.ask("GET", "/v1/models", **bearer)[2]
        own = gateway.post(CHAT, {**HELLO, "model": "org/other"}, **bearer)
        others = gateway.post(CHAT, HELLO, **bearer)
        counted = gateway.post("/tokenize", {"prompt": "a", "model": "tiny"}, **bearer)

    assert [each["id"] for each in listed["data"]] == ["org/other"]
    assert own[0] == 200
    for refused in (others, counted):
        assert (refused[0], refused[2]["error"]["code"]) == (403, "insufficient_permissions")
        assert "org/other" in refused[2]["error"]["message"]


def test_a_key_of_a_region_is_served_there_or_not_at_all(gateway):
    with key(gateway, regions=("eu",)) as text:
        bearer = {"authorization": f"Bearer {text}"}
        nobody = gateway.post(CHAT, {**HELLO, "manyhands": {"wait_s": 0}}, **bearer)
        elsewhere = gateway.post(CHAT, {**HELLO, "manyhands": {"regions": ["us"]}}, **bearer)
        sloppy = gateway.post(CHAT, {**HELLO, "manyhands": {"believe_regions": True}}, **bearer)

    assert (nobody[0], nobody[2]["error"]["code"]) == (503, "swarm_incomplete")
    assert "region" in nobody[2]["error"]["message"]
    for refused in (elsewhere, sloppy):
        assert (refused[0], refused[2]["error"]["code"]) == (403, "data_residency_violation")
        assert "eu" in refused[2]["error"]["message"]


def test_what_an_answer_used_is_counted_even_if_its_caller_left(gateway):
    with key(gateway) as text:
        bearer = {"authorization": f"Bearer {text}"}
        hash = Keys.read(gateway.keys).all[0].hash
        told = gateway.post(CHAT, HELLO, **bearer)[2]
        asked = {**HELLO, "max_tokens": 900, "ignore_eos": True, "stream": True}
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
        headers = {"content-type": "application/json", **bearer}
        connection.request("POST", CHAT, json.dumps(asked), headers)
        connection.getresponse().read(600)
        connection.close()
        while gateway.look(lambda: gateway.gateway.n_running):
            pass
        gateway.run(asyncio.sleep(0.05))

    spent = gateway.gateway.allowances.spending.in_all(hash)
    assert spent.answers == 2
    assert spent.tokens > told["usage"]["total_tokens"] + 1


def certificate_in(directory: Path, *, ends: timedelta = DAY) -> tuple[Path, Path]:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * DAY)
        .not_valid_after(now + ends)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(private, SHA256())
    )
    cert, key = directory / "cert.pem", directory / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert, key


async def handshake(port: int, trusted: Path) -> str:
    """The serial number of the certificate there, and that it answers."""
    context = ssl.create_default_context(cafile=str(trusted))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    answer = await reader.read()
    serial = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200")
    return str(serial)


async def test_with_a_certificate_it_speaks_tls_and_a_renewed_one_is_taken(tmp_path):
    certificate = Certificate(*certificate_in(tmp_path))
    async with listening(hello, "127.0.0.1", 0, certificate) as port:
        first = await handshake(port, tmp_path / "cert.pem")
        async with certificate.kept(look_s=0.02):
            (tmp_path / "key.pem").write_text("nonsense")
            await asyncio.sleep(0.1)
            same = await handshake(port, tmp_path / "cert.pem")
            certificate_in(tmp_path)
            await asyncio.sleep(0.2)
            second = await handshake(port, tmp_path / "cert.pem")

    assert same == first != second


async def test_a_handshake_that_never_ends_is_not_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr(serving, "HEAD_S", 0.1)
    certificate = Certificate(*certificate_in(tmp_path))
    async with serving.listening(hello, "127.0.0.1", 0, certificate) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01")  # the first bytes of a hello

        closed = await asyncio.wait_for(reader.read(), 5)
        writer.close()

    assert closed == b""


def test_a_certificate_that_cannot_be_used_is_said_before_anything_listens(tmp_path):
    (one := tmp_path / "one").mkdir()
    (two := tmp_path / "two").mkdir()
    (old := tmp_path / "old").mkdir()
    cert, key = certificate_in(one)
    other = certificate_in(two)[1]

    for given, why in (
        ((cert, other), "is not the key of"),
        ((key, key), "no certificate"),
        ((cert, cert), "no private key"),
        ((tmp_path / "none", key), "No such file"),
        (certificate_in(old, ends=-DAY), "renew it"),
    ):
        with pytest.raises(ConfigError, match=why) as refused:
            Certificate(*given)
        assert refused.value.hint


async def test_pages_of_named_origins_alone_may_read():
    gateway = Gateway(Catalogue(served_of([find_model("tiny")])))
    app = make_app(gateway, Readiness(gateway), origins=("https://app.example",))

    async with listening(app, "127.0.0.1", 0) as port:

        def ask(method: str, origin: str, **more: str) -> dict[str, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            headers = {"origin": origin, **{n.replace("_", "-"): v for n, v in more.items()}}
            connection.request(method, "/v1/models", headers=headers)
            response = connection.getresponse()
            response.read()
            connection.close()
            return {name.lower(): value for name, value in response.getheaders()}

        asked = {"access_control_request_method": "POST"}
        wanted = {**asked, "access_control_request_headers": "authorization,x-stainless-os"}
        before = await asyncio.to_thread(ask, "OPTIONS", "https://app.example", **wanted)
        read = await asyncio.to_thread(ask, "GET", "https://app.example")
        evil = await asyncio.to_thread(ask, "GET", "https://evil.example")
        evil_before = await asyncio.to_thread(ask, "OPTIONS", "https://evil.example", **asked)

    assert before["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in before["access-control-allow-headers"]
    assert read["access-control-allow-origin"] == "https://app.example"
    assert "x-request-id" in read["access-control-expose-headers"].lower()
    assert "access-control-allow-origin" not in evil
    assert "access-control-allow-origin" not in evil_before


def test_no_key_and_no_prompt_of_a_caller_with_limits_is_logged(gateway, caplog):
    with key(gateway, requests_per_minute=1, models=("tiny",)) as text:
        bearer = {"authorization": f"Bearer {text}"}
        said = [{"role": "user", "content": "xyzzy"}]
        with caplog.at_level("DEBUG"):
            told = events(
                gateway.post(CHAT, {**HELLO, "messages": said, "stream": True}, **bearer)[2]
            )
            gateway.post(CHAT, {**HELLO, "messages": said}, **bearer)

    assert told[-1] == "[DONE]"
    assert caplog.records
    for record in caplog.records:
        logged = record.getMessage() + repr(vars(record))
        assert "xyzzy" not in logged
        assert text not in logged
