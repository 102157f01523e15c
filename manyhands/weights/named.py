"""`ORG/NAME[@REVISION]`: the copy that is here, or what the hub has, as a store to be filled.

In: a name. Out: a directory in the hub's own cache when all of the model is there; else a `Store`
with the small files, and the `Hub` that has the rest, if it answers. What a name meant last time
is remembered by commit, so that a start without a network finds what is here.
"""

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from manyhands.licences import plain
from manyhands.weights.hub import Hub
from manyhands.weights.published import describe_published
from manyhands.weights.store import Store, cache_root
from protocol.describing import MANIFEST_FILE, weights_files
from protocol.errors import BadModel, ManyhandsError
from protocol.files import write_whole
from protocol.manifest import INDEX, Manifest

NAMES = "names"
HUB_PROBE_S = 3.0


@dataclass(frozen=True, slots=True)
class Found:
    """Either a whole copy in `directory`, or a `store` that `hub` can fill."""

    directory: Path
    revision: str
    store: Store | None = None
    hub: Hub | None = None


def find_named(name: str, revision: str) -> Found | None:
    """What a name of the hub means; None: it is not here, and the hub cannot be asked.

    Raises:
        BadModel: the hub has no such model, or it cannot be served.
        HubRefused, HubUnreachable, IntegrityError: see `hub.py`.
    """
    if copy := _cached_copy(name, revision):
        return Found(copy, copy.name)
    if not _may_ask():
        if store := _recalled(name, revision):
            return Found(store.place, store.manifest.revision, store)
        return None
    hub = Hub(name, revision)
    published = hub.look()
    store = _recalled(name, revision)
    if store is None or store.manifest.revision != published.commit:
        manifest, small = describe_published(hub, published)
        store = Store.at(cache_root() / manifest.digest.hex(), manifest)
        with store.held():
            store.keep_small(small)
        _remember(name, revision, store)
    return Found(store.place, published.commit, store, hub)


def open_store(place: Path) -> Store | None:
    """The store in a directory, if every small file there is what its manifest says."""
    try:
        manifest = Manifest.from_json((place / MANIFEST_FILE).read_bytes())
        for file in manifest.files:
            if not file.is_weights and (file.name != INDEX or (place / INDEX).exists()):
                manifest.check_file(place, file.name)
    except (OSError, ManyhandsError):
        return None
    return Store.at(place, manifest)


def _cached_copy(name: str, revision: str) -> Path | None:
    """The library's own cache, where all of the model is in it."""
    from huggingface_hub import snapshot_download

    try:
        path = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except Exception:  # it is not there: the library has several words for that
        return None
    try:
        index = (path / INDEX).read_bytes() if (path / INDEX).exists() else None
        needed = weights_files(index, [file.name for file in path.iterdir()], name)
    except (OSError, BadModel):
        return None
    return path if all((path / n).exists() for n in ("config.json", *needed)) else None


def _recalled(name: str, revision: str) -> Store | None:
    try:
        note = json.loads(_note(name, revision).read_bytes())
        store = open_store(cache_root() / bytes.fromhex(note["digest"]).hex())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return store if store and store.manifest.digest.hex() == note["digest"] else None


def _remember(name: str, revision: str, store: Store) -> None:
    note = _note(name, revision)
    with suppress(OSError):
        write_whole(note, json.dumps({"digest": store.manifest.digest.hex()}).encode())


def _note(name: str, revision: str) -> Path:
    return cache_root() / NAMES / plain(f"{name}@{revision}.json".replace("/", "--"))


def _may_ask() -> bool:
    """Whether the hub, or the proxy in front of it, takes connections: seconds, not minutes."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    parts = urlsplit(proxy or constants.ENDPOINT)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=HUB_PROBE_S).close()
    except OSError:
        return False
    return True
