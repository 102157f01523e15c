"""A model as a client needs it: no weights, and nothing on this machine but an address.

In: MODEL as a person wrote it, and where the swarm is. Out: a `Model` whose directory holds the
manifest and the small files. `tiny` and directories are read where they lie; any other name is what
peers announce, and its small files come from them, checked against the digest, kept in the cache.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from manyhands.home import Home, open_identity
from manyhands.loops import run
from manyhands.models import TINY, Model, find_model, split_adapter
from manyhands.running import join_addresses
from protocol.address import Address
from protocol.announcements import Announcement
from protocol.errors import BadModel, ManyhandsError, UsageError
from protocol.manifest import Manifest
from protocol.signing import OPEN_SWARM_ID

MANIFEST_FILE = "manifest.json"
DIGEST_CHARS = 8  # at least so many of a digest name a model


def find_client_model(text: str, home: Home, join: Sequence[Address]) -> Model:
    """The model a person means, without its weights; `MODEL:ADAPTER` names an adapter, too.

    Raises:
        BadModel: it is neither here nor served by the swarm.
        UsageError: the swarm serves several by that name.
        PeerUnreachable: nobody answers, or nobody is known to ask.
    """
    model, adapter = split_adapter(text)
    return replace(_find(model, home, join), adapter=adapter)


def _find(text: str, home: Home, join: Sequence[Address]) -> Model:
    if text == TINY or text.startswith(("/", ".", "~")) or Path(text).exists():
        return find_model(text)
    return run(_from_swarm(text, home, join_addresses(home, join)))


async def _from_swarm(text: str, home: Home, join: Sequence[Address]) -> Model:
    from protocol.announcement_table import AnnouncementTable
    from protocol.transport.grpc import GrpcTransport
    from scheduler.directory import Directory, fetch_directory
    from scheduler.thin import fetch_small_files

    transport = GrpcTransport(open_identity(home.client), OPEN_SWARM_ID)
    directory = Directory(AnnouncementTable(OPEN_SWARM_ID))
    await fetch_directory(transport, join, directory)
    digest = _choose(text, directory.live())
    place = _cache() / digest.hex()
    manifest = _kept(place, digest)
    if manifest is None:
        manifest, files = await fetch_small_files(transport, directory.hosts(digest), digest)
        _keep(place, manifest, files)
    return Model(text, text, place, manifest)


def _kept(place: Path, digest: bytes) -> Manifest | None:
    """What an earlier run kept, if every byte of it still is what the digest says."""
    try:
        manifest = Manifest.from_json((place / MANIFEST_FILE).read_bytes())
        for entry in manifest.small_files():
            manifest.check_file(place, entry.name)
    except (OSError, ManyhandsError):
        return None
    return manifest if manifest.digest == digest else None


def _choose(text: str, live: Sequence[Announcement]) -> bytes:
    named = {
        peer.manifest: peer.model
        for peer in live
        if peer.model == text
        or (len(text) >= DIGEST_CHARS and peer.manifest.hex().startswith(text.lower()))
    }
    if len(named) == 1:
        return next(iter(named))
    if named:
        digests = ", ".join(digest.hex()[:16] for digest in named)
        raise UsageError(
            f"peers serve several models called {text}", hint=f"name one by its digest: {digests}"
        )
    others = ", ".join(sorted({peer.model for peer in live})) or "none"
    raise BadModel(
        f"{text} is no directory here, and no peer serves a model of that name",
        hint=f"models served now: {others}",
    )


def _keep(place: Path, manifest: Manifest, files: dict[str, bytes]) -> None:
    """Whole or not at all: the manifest comes last."""
    place.mkdir(parents=True, exist_ok=True)
    for name, content in {**files, MANIFEST_FILE: manifest.to_json()}.items():
        scratch = place / f".{name}.{os.getpid()}"
        scratch.write_bytes(content)
        scratch.replace(place / name)


def _cache() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("manyhands") / "models"
