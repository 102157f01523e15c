"""The gateway's certificate: two PEM files, looked at before anything listens, and again as they
change.

In: paths. Out: a context for the socket that speaks TLS 1.2 or 1.3. Whoever renews certificates
(certbot, say) writes new files; the context takes them within a minute, for connections made then.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from manyhands.gateway.reloaded import Reloaded
from protocol.errors import ConfigError

log = logging.getLogger(__name__)

LOOK_S = 30.0


class Certificate:
    """
    Raises:
        ConfigError: the files cannot be used, in words; nothing listens then.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate, self._key = certificate, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._files = Reloaded(self._load, certificate, key)

    @asynccontextmanager
    async def kept(self, look_s: float = LOOK_S) -> AsyncIterator[None]:
        """Take new files while the context lasts; bad ones leave what there is."""

        async def look() -> None:
            while True:
                await asyncio.sleep(look_s)
                if await asyncio.to_thread(self._files.look):
                    log.info("a new certificate is in use")

        looking = asyncio.create_task(look())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    def _load(self) -> None:
        text = _read(self._certificate, "--tls-cert")
        key = _read(self._key, "--tls-key")
        try:
            chain = x509.load_pem_x509_certificates(text)
        except ValueError as error:
            raise _refused(self._certificate, "holds no certificate in PEM form") from error
        if b"PRIVATE KEY" not in key:
            raise _refused(self._key, "holds no private key in PEM form")
        ends = chain[0].not_valid_after_utc
        if ends < datetime.now(UTC):
            raise _refused(self._certificate, f"ended on {ends:%Y-%m-%d}: renew it")
        try:  # into one that is thrown away first, so that a bad pair spoils nothing
            for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.context):
                context.load_cert_chain(self._certificate, self._key, _no_password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise _refused(self._key, f"is not the key of {self._certificate}") from error
            raise _refused(self._key, f"cannot be used: {error.reason or error}") from error
        except OSError as error:  # it reads the files again, which may be renewed meanwhile
            raise _refused(self._certificate, f"or its key went: {error.strerror}") from error


def _read(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", hint=f"name another file with {flag}"
        ) from error


def _no_password() -> str:
    raise ConfigError(
        "the TLS key has a password, which nobody could type at each start",
        hint="take it off: openssl pkey -in KEY -out PLAIN",
    )


def _refused(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path} {why}", hint="give a certificate chain and its own key, in PEM")
