"""`manyhands swarm why PEER`: ask the swarm about a peer, dial it, and tell what speaks against it.

In: a peer, by id, by the end of its id as tables show it, or by address; what an answer would ask
for. Out: the reasons of `why.py` as lines or one JSON object. Every address is dialled, also where
one of them answered.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import manyhands.swarm_inviting
import manyhands.swarm_ruling  # noqa: F401 (their commands belong to the same group)
from manyhands.asking import RECORD_NAME, Ask
from manyhands.home import KEY_NAME, Home
from manyhands.loops import run
from manyhands.options import home_option, join_option, json_option, limits_options
from manyhands.own_words import OwnWords, fetch_own_words
from manyhands.party import Party, open_party
from manyhands.running import join_addresses
from manyhands.signals import interruptible
from manyhands.swarm import swarm
from manyhands.tables import ending_in
from protocol.address import Address
from protocol.errors import ManyhandsError, UsageError
from protocol.identity import PeerId, load_peer_id, public_key_from_peer_id

if TYPE_CHECKING:
    from manyhands.why import Known, Reason
    from protocol.load import Load
    from scheduler.directory import Directory
    from scheduler.wanted import Wanted

DIAL_S = 5.0
COLOURS = {"ok": "green", "fail": "red"}


@dataclass(frozen=True, slots=True)
class _Looked:
    """At the swarm: its table, how many told theirs, and why the others did not."""

    directory: "Directory"
    n_asked: int
    failure: ManyhandsError | None


@swarm.command()
@click.argument("peer")
@join_option
@click.option("--model", default="", metavar="MODEL", help="Ask what an answer of it would.")
@click.option(
    "--tokens",
    "n_positions",
    type=click.IntRange(min=1),
    default=1024,
    metavar="N",
    help="Room for so many, prompt and answer. Default: 1024.",
)
@click.option("--profile", metavar="P", help="In this execution profile. Default: any.")
@limits_options
@home_option
@json_option
def why(
    peer: str,
    join: tuple[Address, ...],
    model: str,
    n_positions: int,
    home: Path | None,
    as_json: bool,
    **choices: Any,
) -> None:
    """Tell why PEER is not usable from here, or that it is, after dialling each of its addresses.

    PEER is a peer id, its end as the tables show it, or an address.
    """
    from manyhands.why import is_usable, reasons

    place, ask = Home.at(home), Ask(**choices)
    known, directory = run(_look(place, peer, join))
    wanted = _wanted(ask, model, place, join, n_positions, known)
    found = reasons(known, directory.judged(wanted) if wanted is not None else None)
    if as_json:
        click.echo(json.dumps(view_of(known, found)))
        return
    state = "usable" if is_usable(found) else "not usable"
    click.echo(f"{known.peer_id} is {state} from here")
    for reason in found:
        click.secho(f"{reason.verdict:<5}", nl=False, fg=COLOURS[reason.verdict])
        click.echo(f"{reason.source:<13} {reason.text}")
        if reason.fix:
            click.echo(f"{'':18} fix: {reason.fix}")


def view_of(known: "Known", found: "Sequence[Reason]") -> dict[str, Any]:
    """What `--json` prints."""
    from manyhands.why import is_usable

    return {
        "schema": "manyhands/swarm-why/v1",
        "peer": known.peer_id,
        "usable": is_usable(found),
        "reasons": [
            {
                "source": reason.source,
                "verdict": reason.verdict,
                "text": reason.text,
                "fix": reason.fix or None,
            }
            for reason in found
        ],
        "dialled": [
            {
                "address": str(address),
                "ms": round(came, 2) if isinstance(came, float) else None,
                "error": None if isinstance(came, float) else came.code,
            }
            for address, came in known.dialled.items()
        ],
    }


def _wanted(
    ask: Ask,
    model: str,
    home: Home,
    join: tuple[Address, ...],
    n_positions: int,
    known: "Known",
) -> "Wanted | None":
    from scheduler.wanted import Wanted

    manifest, n_blocks = b"", 0
    if model:
        from manyhands.thin import find_client_model

        found = find_client_model(model, home, join).manifest
        manifest, n_blocks = found.digest, found.n_blocks
    elif known.announced is not None:
        manifest, n_blocks = known.announced.manifest, known.announced.n_blocks
    if not n_blocks:
        return None
    return Wanted(
        manifest=manifest,
        n_blocks=n_blocks,
        n_positions=n_positions,
        profile=ask.spelled_profile(),
        limits=ask.limits(),
    )


async def _look(home: Home, text: str, join: tuple[Address, ...]) -> "tuple[Known, Directory]":
    """What is known of one peer, and the table of all.

    Raises:
        UsageError: no such peer, or several.
        ManyhandsError: our key or membership cannot be used.
    """
    from manyhands.condition import Seen
    from manyhands.why import Known
    from node.barring import read_bans
    from protocol.regions import doubts
    from scheduler.record_file import read_records

    party = open_party(home, "client")
    with interruptible():
        given = Address.parse(text) if "/p2p/" in text else None
        looked = await _ask(party, home, join)
        directory = looked.directory
        peer_id = given.peer_id if given else _the_peer(text, directory, looked.failure)
        announced, now_ms = directory.get(peer_id), directory.now_ms()
        addresses = dict.fromkeys(announced.addresses if announced else ())
        if given is not None:
            addresses[given] = None
        dialled, load, own = await _dial_all(party, list(addresses))
    records, now_s = read_records(home.client / RECORD_NAME), time.time()
    listed = (announced,) if announced else ()
    slowdown = records.believed(listed, now_s).get(peer_id)
    doubt = doubts(directory.live()).get(peer_id, "")
    known = Known(
        peer_id=peer_id,
        ours=_ours(home),
        announced=announced,
        asked=looked.n_asked,
        unasked=looked.failure,
        seen=Seen(
            age_s=directory.table.heard_ms(peer_id, now_ms) / 1000,
            slowdown=slowdown,
            skew_s=directory.table.skew_ms(peer_id, now_ms) / 1000,
            doubt=str(doubt),
        ),
        dialled=dialled,
        load=load,
        state=party.membership.state if party.membership else None,
        standing=records.standings.get(peer_id),
        risk_ms=records.risk_ms(listed, now_s).get(peer_id, 0.0),
        complaints=tuple(one for one, other in records.broken_links(now_s) if other == peer_id),
        now_ms=now_ms,
        ban=next((ban for ban in read_bans(home.bans) if ban.peer_id == peer_id), None),
        held=own.held,
    )
    return known, directory


async def _ask(party: Party, home: Home, join: tuple[Address, ...]) -> _Looked:
    """The swarm's table, as far as anybody tells it."""
    from scheduler.directory import MAX_ASKED, fetch_directory

    directory = party.directory()
    try:
        addresses = join_addresses(home, join)
        await fetch_directory(party.transport(), addresses, directory)
        await party.hear(addresses)
    except ManyhandsError as error:
        return _Looked(directory, 0, error)
    return _Looked(directory, min(len(addresses), MAX_ASKED), None)


def _the_peer(text: str, directory: "Directory", failure: ManyhandsError | None) -> PeerId:
    try:
        public_key_from_peer_id(PeerId(text))
    except UsageError:
        peers = ending_in(text, (peer.peer_id for peer in directory.live()))
        if len(peers) == 1:
            return peers[0]
        if failure is not None:
            raise failure from None
        what = f"{len(peers)} announced peers end in" if len(peers) > 1 else "nobody is called"
        raise UsageError(
            f"{what} {text[:80]!r}", hint="give a peer id or an address: manyhands peers"
        ) from None
    return PeerId(text)


async def _dial_all(
    party: Party, addresses: Sequence[Address]
) -> "tuple[Mapping[Address, float | ManyhandsError], Load | None, OwnWords]":
    """What came of dialling each, at once; how busy the peer says it is, and what else."""
    from protocol.load import METHOD, Load

    loads: list[Load] = []
    words: list[OwnWords] = []
    transport = party.transport()

    async def dial(address: Address) -> float | ManyhandsError:
        try:
            connection = await transport.dial(address, timeout_s=DIAL_S)
            try:
                began_s = time.monotonic()
                await connection.call("ping", b"", timeout_s=DIAL_S)
                took_ms = (time.monotonic() - began_s) * 1000
                answer = await connection.call(METHOD, b"", timeout_s=DIAL_S)
                loads.append(Load.decode(answer, sender=address.peer_id))
                words.append(await fetch_own_words(connection))
            finally:
                await connection.aclose()
        except ManyhandsError as error:
            return error
        return took_ms

    came = await asyncio.gather(*map(dial, addresses))
    by_address = dict(zip(addresses, came, strict=True))
    return by_address, loads[0] if loads else None, words[0] if words else OwnWords()


def _ours(home: Home) -> dict[PeerId, str]:
    """Our own peer ids, by what they are; a key that is not there yet is nobody's."""
    found = {}
    for place in (home.client, home.node):
        if (place / KEY_NAME).exists():
            found[load_peer_id(place / KEY_NAME)] = place.name
    return found
