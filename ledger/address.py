"""Where the databases of one party are, when they are on a PostgreSQL server.

In: a URL and a name for the party there. Out: an address, which never shows its password.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import urlsplit

from protocol.errors import UsageError

SCHEMES = ("postgresql", "postgres")
_NAMESPACE = re.compile(r"[a-z][a-z0-9_]{0,40}\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """One party's place on a server: `node_3f2a…` in the database that the URL names."""

    url: str = field(repr=False)
    namespace: str
    stem: str = ""  # which of the party's databases: ledger, spend, spending, witness

    def __post_init__(self) -> None:
        if not _is_url(self.url):  # which is not shown: it may hold a password
            raise UsageError(
                "a ledger is at postgresql://USER@HOST/DATABASE",
                hint="without --ledger it is a file in the home",
            )
        if not _NAMESPACE.match(self.namespace):
            raise UsageError(f"{self.namespace[:60]!r} is no name for a party on a server")

    @classmethod
    def of(cls, url: str, role: str, account: bytes) -> Self:
        """Of an account's databases: several homes may share a server."""
        letters = re.sub(r"[^a-z0-9]", "", role.lower())[:16]
        return cls(url, f"mh_{letters}_{account.hex()[:16]}")

    def at(self, file_name: str) -> Self:
        """Of the database that would be in a file of this name."""
        return replace(self, stem=file_name.split(".")[0])

    @property
    def name(self) -> str:
        return self.stem

    @property
    def schema(self) -> str:
        return f"{self.namespace}_{self.stem}"

    def __str__(self) -> str:
        url = urlsplit(self.url)
        host = url.hostname or "the local socket"
        return f"{self.schema} on PostgreSQL at {host}{url.path}"


def _is_url(url: str) -> bool:
    try:
        return urlsplit(url).scheme in SCHEMES and not any(c.isspace() for c in url)
    except ValueError:  # brackets around what is no address
        return False
