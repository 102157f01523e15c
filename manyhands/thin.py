"""A model as a client needs it: no weights, and nothing on this machine but an address.

In: MODEL as a person wrote it, and where the swarm is. Out: a `Model` whose directory holds the
manifest and the small files. `tiny` and directories are read where they lie; any other name is what
peers announce, and its small files come from them, checked against the digest, kept in the cache.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from manyhands.asking import party_transport
from manyhands.home import Home
from manyhands.loops import run
from manyhands.models import TINY, Model, find_model, split_adapter
from manyhands.party import Party, open_party
from manyhands.running import join_addresses
from protocol.address import Address
from protocol.announcements import Announcement
from protocol.clock import wall_ms
from protocol.errors import NoSuchModel, UsageError
from protocol.manifest import Manifest
from protocol.membership.gate import Membership
from protocol.membership.rules import Channel

DIGEST_CHARS = 8  # at least so many of a digest name a model


def find_client_model(
    text: str,
    home: Home,
    join: Sequence[Address],
    channel: str = "stable",
    *,
    tunnels: bool = False,
) -> Model:
    """The model a person means, without its weights; `MODEL:ADAPTER` names an adapter, too.

    tunnels: fetch its files also from peers to which nothing else leads.

    Raises:
        NoSuchModel: it is neither here nor served by the swarm.
        UsageError: the swarm serves several by that name.
        PeerUnreachable: nobody answers, or nobody is known to ask.
    """
    return run(fetch_client_model(text, home, join, channel, tunnels=tunnels))


async def fetch_client_model(
    text: str,
    home: Home,
    join: Sequence[Address],
    channel: str = "stable",
    *,
    tunnels: bool = False,
) -> Model:
    """The same, where an event loop runs."""
    named, adapter = split_adapter(text)
    if _is_here(named):
        found = await asyncio.to_thread(find_model, named)
    else:
        addresses = join_addresses(home, join)
        channels = Channel(channel).and_safer
        party = open_party(home, "client")
        found, _ = await from_swarm(named, party, addresses, channels=channels, tunnels=tunnels)
    return replace(found, adapter=adapter)


def _is_here(named: str) -> bool:
    return named == TINY or named.startswith(("/", ".", "~")) or Path(named).exists()


async def from_swarm(
    text: str,
    party: Party,
    join: Sequence[Address],
    *,
    also: Collection[str] = (),
    channels: Sequence[Channel] | None = None,
    tunnels: bool = False,
) -> tuple[Model, tuple[Announcement, ...]]:
    """The model that peers serve under this name or digest, and the peers; small files only.

    Args:
        also: files besides that a node needs.
        channels: in which it must be released, where the swarm releases models; None: those that
            nodes serve.
        tunnels: run libp2p for the files, where they are not here yet.
    """
    from manyhands.weights.named import open_store
    from manyhands.weights.store import Store, cache_root
    from scheduler.directory import fetch_directory
    from scheduler.thin import fetch_small_files

    transport, directory = party.transport(), party.directory()
    await fetch_directory(transport, join, directory)
    await party.hear(join)
    digest = _choose(text, directory.live(), party, channels)
    hosts = directory.hosts(digest)
    place = cache_root() / digest.hex()
    store = open_store(place)
    if store is None or not all((place / n).exists() for n in _named(store.manifest, also)):
        async with party_transport(party, tunnels=tunnels) as dialling:
            manifest, files = await fetch_small_files(dialling, hosts, digest, also=also)
        store = Store.at(place, manifest)
        with store.held():
            store.keep_small(files)
    return Model(text, text, place, store.manifest, store=store), hosts


def _named(manifest: Manifest, names: Collection[str]) -> list[str]:
    return [file.name for file in manifest.files if file.name in names]


def _choose(
    text: str,
    live: Sequence[Announcement],
    party: Party,
    channels: Sequence[Channel] | None,
) -> bytes:
    named = {
        peer.manifest: peer.model
        for peer in live
        if peer.model == text
        or (len(text) >= DIGEST_CHARS and peer.manifest.hex().startswith(text.lower()))
    }
    if party.membership is not None and len(named) > 1:
        named = _permitted(named, party.membership, channels) or named
    if len(named) == 1:
        return next(iter(named))
    if named:
        digests = ", ".join(digest.hex()[:16] for digest in named)
        raise UsageError(
            f"peers serve several models called {text}", hint=f"name one by its digest: {digests}"
        )
    others = ", ".join(sorted({peer.model for peer in live})) or "none"
    raise NoSuchModel(
        f"{text} is no directory here, and no peer serves a model of that name",
        hint=f"models served now: {others}",
    )


def _permitted(
    named: dict[bytes, str], membership: Membership, channels: Sequence[Channel] | None
) -> dict[bytes, str]:
    """Those that the swarm permits under these names; of several, what was released last."""
    governance = membership.state.governance
    if not governance.is_strict:
        return named
    may = {
        digest: name
        for digest, name in named.items()
        if not membership.judge(digest, name, channels=channels).refused
    }
    out = governance.released(wall_ms(), governance.rules.serves if channels is None else channels)
    latest = [(one.manifest, one.model) for one in out if may.get(one.manifest) == one.model]
    return dict(latest[-1:]) or may
