"""What flags mean: addresses, spans, sizes and endpoints as values, and options several share."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from manyhands.home import default_home, home_of
from protocol.adapter_names import is_name
from protocol.address import Address
from protocol.constraints import Group
from protocol.identity import PeerId, public_key_from_peer_id
from protocol.messages import Span

Command = TypeVar("Command", bound=Callable[..., Any])

PREFERENCES = ("cheap", "balanced", "fast", "throughput", "latency")  # see `scheduler.wanted.Goal`
PAGE_PORTS = range(8401, 8421)  # a gateway: 8400, a witness: 8430, `ledger sync serve`: 8431

_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


class AddressType(click.ParamType[Any]):
    name = "ADDR"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        return value if isinstance(value, Address) else Address.parse(value)


class RelayType(click.ParamType[Any]):
    """A relay's address, or `auto`, which is None."""

    name = "ADDR|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address | None:
        if value is None or value == "auto":
            return None
        address = value if isinstance(value, Address) else Address.parse(value)
        if address.relay:
            self.fail("a relay is dialled directly, not through another one", param, ctx)
        return address


class SpanType(click.ParamType[Any]):
    """`A:B`, or `auto`, which is None."""

    name = "A:B|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Span | None:
        if isinstance(value, Span) or value == "auto":
            return None if value == "auto" else value
        matched = re.fullmatch(r"(\d{1,6}):(\d{1,6})", value)
        if not matched or int(matched[1]) >= int(matched[2]):
            self.fail(f"{value!r} is no span: write A:B for blocks A to B-1, A below B", param, ctx)
        return Span(int(matched[1]), int(matched[2]))


class SizeType(click.ParamType[Any]):
    """Bytes: `4GiB`, `512MB`, `1g`; all units are powers of 1024."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        matched = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", value.strip().lower())
        if not matched:
            self.fail(f"{value!r} is no size: write 512MiB or 4GiB", param, ctx)
        return int(float(matched[1]) * 2 ** _UNITS[matched[2]])


class EndpointType(click.ParamType[Any]):
    """`HOST:PORT`; an IPv6 host stands in brackets."""

    name = "HOST:PORT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        host, colon, port = value.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not re.fullmatch(r"\d{1,5}", port) or int(port) > 65535:
            self.fail(f"{value!r} is no HOST:PORT; port 0 picks one", param, ctx)
        return host, int(port)


class PageType(click.ParamType[Any]):
    """The ports to try: one, the usual ones for `auto`, none for `off`."""

    name = "PORT|auto|off"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> range:
        if isinstance(value, range):
            return value
        if value in ("auto", "off"):
            return PAGE_PORTS if value == "auto" else range(0)
        if not re.fullmatch(r"\d{1,5}", value) or int(value) > 65535:
            self.fail(f"{value!r} is no port; port 0 picks one", param, ctx)
        return range(int(value), int(value) + 1)


class AdapterType(click.ParamType[Any]):
    """`NAME=DIR`: an adapter's directory, and what to call it."""

    name = "NAME=DIR"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value
        name, equals, directory = value.partition("=")
        if not equals or not is_name(name) or not directory:
            self.fail(
                f"{value!r} is no NAME=DIR; a name has 1 to 64 letters, digits and ._-", param, ctx
            )
        return name, Path(directory).expanduser()


class GroupType(click.ParamType[Any]):
    """`NAME`, or `NAME=PEER,PEER…`: a trust group, or the peers that are one."""

    name = "G"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Group:
        if isinstance(value, Group):
            return value
        name, equals, listed = value.partition("=")
        named = listed.split(",") if equals else ()
        peers = (PeerId(PeerType().convert(peer.strip(), param, ctx)) for peer in named)
        return Group(name, tuple(peers))


class PeerType(click.ParamType[Any]):
    """A peer id, or an address that ends in one."""

    name = "PEER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        peer_id = value.rpartition("/p2p/")[2]
        public_key_from_peer_id(PeerId(peer_id))
        return str(peer_id)


def base_option(command: Command) -> Command:
    """The home that a person names, which may hold those of several swarms."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=True),
        envvar="MANYHANDS_HOME",
        help="Where keys and ledgers live. Default: the platform's place for user data.",
    )(command)


def home_option(command: Command) -> Command:
    """`--home` and `--swarm`; the command gets one `home`, that of the swarm."""

    @functools.wraps(command)
    def in_swarm(*args: Any, home: Path | None, swarm: str | None, **given: Any) -> Any:
        base = (home or default_home()).expanduser().absolute()
        chosen = home_of(base, swarm)
        return command(*args, home=home if chosen == base else chosen, **given)

    with_swarm = click.option(
        "--swarm",
        envvar="MANYHANDS_SWARM",
        metavar="NAME",
        help="A swarm this home has joined, or open. Default: the home's default, else open.",
    )(in_swarm)
    return cast("Command", base_option(with_swarm))


def join_option(command: Command) -> Command:
    return click.option(
        "--join",
        type=AddressType(),
        multiple=True,
        help="A peer of the swarm: /ip4/HOST/tcp/PORT/p2p/PEER. Repeat for more.",
    )(command)


def limits_options(command: Command) -> Command:
    """Who may serve, and what the client is minded to; `limits_of` reads them."""
    for option in (
        click.option(
            "--prefer",
            type=click.Choice(PREFERENCES),
            default="balanced",
            help="A token soon, a token for little, or many answers in all. Default: balanced; "
            "latency is its older name.",
        ),
        click.option(
            "--require",
            type=PeerType(),
            multiple=True,
            help="The blocks this peer holds are run by it. Repeat for more.",
        ),
        click.option(
            "--avoid", type=PeerType(), multiple=True, help="Not this peer. Repeat for more."
        ),
        click.option(
            "--no-relays",
            is_flag=True,
            help="Peers alone that are dialled themselves, so that nobody carries the rows.",
        ),
        click.option(
            "--max-price",
            type=click.IntRange(min=0),
            metavar="NCR",
            help="At most, for a million tokens through one block. 0: donations alone.",
        ),
        click.option(
            "--max-prepaid",
            type=click.IntRange(min=0),
            default=0,
            metavar="NCR",
            help="What each node may ask for ahead, and keeps, come what may. Default: nothing.",
        ),
        click.option(
            "--max-cost",
            type=click.IntRange(min=0),
            metavar="NCR",
            help="At most, for one answer with its prompt, whatever happens to its chain.",
        ),
        click.option(
            "--group",
            "groups",
            type=GroupType(),
            multiple=True,
            metavar="G[=PEER,…]",
            help="Peers of this trust group alone, or of these. Repeat for more.",
        ),
        click.option(
            "--believe-regions",
            is_flag=True,
            help="Take peers at their word where measurements contradict their region.",
        ),
        click.option(
            "--region",
            "regions",
            multiple=True,
            metavar="R,…",
            help="Peers in these regions alone: eu takes eu-west too. Repeat for more.",
        ),
    ):
        command = option(command)
    return command


def wait_option(command: Command) -> Command:
    return click.option(
        "--wait",
        "wait_s",
        type=click.FloatRange(min=0),
        is_flag=False,
        flag_value=float("inf"),
        metavar="[=S]",
        help="For blocks that nobody serves, also in mid-answer. Default: 5; alone: for ever.",
    )(command)


def tunnels_option(command: Command) -> Command:
    return click.option(
        "--libp2p",
        "tunnels",
        is_flag=True,
        help="Also reach peers through libp2p, where nothing else leads to them.",
    )(command)


policy_option = click.option(
    "--policy",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Classes of data, and upstreams behind manyhands/auto: docs/gateway.md. Default: none.",
)


def accept_licence_option(command: Command) -> Command:
    return click.option(
        "--accept-licence",
        is_flag=True,
        help="You have read the model's licence and accept it. Remembered in the home.",
    )(command)


def trusted_key_option(command: Command) -> Command:
    return click.option(
        "--trusted-key",
        "trusted_keys",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="FILE",
        help="PEM of a key or certificate whose signature (model.sig) you trust. Repeat for more.",
    )(command)


def auditors_option(command: Command) -> Command:
    return click.option(
        "--trust-auditor",
        "auditors",
        type=PeerType(),
        multiple=True,
        metavar="PEER",
        help="Whose word that work was wrong is enough here. Repeat for more; to keep: "
        "`ledger audit trust`.",
    )(command)


def channel_option(command: Command) -> Command:
    return click.option(
        "--channel",
        type=click.Choice(["stable", "candidate", "dev"]),
        default="stable",
        help="Where the swarm releases models: take those of this channel or a safer one.",
    )(command)


def drafter_option(command: Command) -> Command:
    return click.option(
        "--drafter",
        type=click.Choice(["none", "lookup", "model", "auto"]),
        default="none",
        help="Who guesses ahead: the same answer, sooner where guesses are right.",
    )(command)


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)
