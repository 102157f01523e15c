"""Where a gateway listens and for whom: the flags, checked before anything listens.

In: `--host`, `--port`, the files of a certificate, origins. Out: a `Where`, or why not: on an
address that others can reach there must be keys, and keys are better not sent in the clear.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from manyhands.progress import say
from protocol.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from manyhands.gateway.keys import KeyFile
    from manyhands.gateway.tls import Certificate

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_PORT = 8400
LOOPBACK = ("127.0.0.1", "::1", "localhost")
ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")
FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """certificate: None, and it speaks plain HTTP. origins: of pages elsewhere that may ask."""

    host: str
    port: int
    certificate: "Certificate | None"
    origins: tuple[str, ...]

    @classmethod
    def of(cls, flags: dict[str, Any], keys: "KeyFile") -> Self:
        """From the flags of `listening_options`, which are taken out of `flags`.

        Raises:
            UsageError, ConfigError: it would not be safe, or could not work.
        """
        host, port = flags.pop("host"), flags.pop("port")
        cert, key = flags.pop("tls_cert"), flags.pop("tls_key")
        origins = tuple(each.rstrip("/").lower() for each in flags.pop("origins"))
        if (cert is None) != (key is None):
            raise UsageError(
                "a certificate and its key come together", hint="--tls-cert FILE --tls-key FILE"
            )
        for origin in origins:
            if not ORIGIN.fullmatch(origin):
                hint = "write it as a browser sends it: https://app.example"
                raise UsageError(f"not an origin: {origin[:100]!r}", hint=hint)
        where = cls(host=host, port=port, certificate=_certificate(cert, key), origins=origins)
        if where.is_wide and not keys.has_keys:
            raise ConfigError(
                f"on {host} anybody who reaches this machine could use the gateway",
                hint="make a key first: manyhands gateway key new",
            )
        if where.is_wide and cert is None:
            say(
                "keys and prompts cross the network in the clear: use --tls-cert and --tls-key, "
                "or a proxy that has them"
            )
        return where

    @property
    def is_wide(self) -> bool:
        return self.host not in LOOPBACK

    def url(self, port: int) -> str:
        """port: where it listens now."""
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{port}"


def listening_options(command: Command) -> Command:
    """`--host`, `--port`, `--tls-cert`, `--tls-key` and `--allow-origin`."""
    options = (
        click.option("--host", default="127.0.0.1", metavar="HOST", help="Default: 127.0.0.1."),
        click.option(
            "--port",
            type=click.IntRange(0, 65535),
            default=DEFAULT_PORT,
            help=f"0 picks one. Default: {DEFAULT_PORT}.",
        ),
        click.option(
            "--tls-cert",
            type=FILE,
            metavar="FILE",
            help="Speak HTTPS: the certificate chain, in PEM. New files are taken while it runs.",
        ),
        click.option("--tls-key", type=FILE, metavar="FILE", help="Its private key, in PEM."),
        click.option(
            "--allow-origin",
            "origins",
            multiple=True,
            metavar="URL",
            help="Let web pages of this origin ask, and read the answers (CORS). Default: none.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _certificate(cert: Path | None, key: Path | None) -> "Certificate | None":
    if cert is None or key is None:
        return None
    from manyhands.gateway.tls import Certificate

    return Certificate(cert, key)
