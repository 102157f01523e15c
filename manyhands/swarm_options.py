"""What the flags of `manyhands swarm` mean: roles and durations as values, whom to tell."""

import re
from typing import Any

import click

from manyhands.options import AddressType
from protocol.address import Address
from protocol.errors import ManyhandsError
from protocol.identity import public_key_from_peer_id
from protocol.membership.roles import Role, Roles

via_option = click.option(
    "--via", type=AddressType(), multiple=True, help="Whom to tell. Repeat for more."
)

_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}


class RolesType(click.ParamType[Any]):
    """`provide,use`: what somebody may do."""

    name = "ROLE,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Roles:
        if isinstance(value, frozenset):
            return value
        words = [word.strip() for word in str(value).split(",")]
        if unknown := [word for word in words if word not in [*Role]]:
            known = ", ".join(Role)
            self.fail(f"{unknown[0]!r} is no role: give some of {known}", param, ctx)
        return frozenset(map(Role, words))


class PlaceType(click.ParamType[Any]):
    """Where somebody is found: a peer id, a multiaddr, or a URL."""

    name = "PEER|ADDR|URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        try:
            if text.startswith("/"):
                Address.parse(text)
            elif not text.startswith(("http://", "https://")):
                public_key_from_peer_id(text)
        except ManyhandsError as error:
            self.fail(f"{text[:80]!r} is no peer, address or URL: {error}", param, ctx)
        return text


class DurationType(click.ParamType[Any]):
    """`30m`, `12h`, `7d`, in milliseconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        matched = re.fullmatch(r"(\d{1,5})([mhd])", str(value).strip())
        if not matched or not int(matched[1]):
            self.fail(f"{value!r} is no time: write 30m, 12h or 7d", param, ctx)
        return int(matched[1]) * _UNITS_MS[matched[2]]


def duration(seconds: int) -> str:
    """`1d`, `12h`, `90m`: as `DurationType` reads it, in the largest unit that is exact."""
    for unit, ms in reversed(_UNITS_MS.items()):
        n, rest = divmod(seconds * 1000, ms)
        if not rest:
            return f"{n}{unit}"
    return f"{seconds}s"
