"""What a client needs of a model it does not have: manifest and tokenizer, from any peer.

In: a manifest's digest and the addresses of its hosts. Out: the small files, every byte checked
against the digest, so that it does not matter who served them (DESIGN 5a.14). Never weights.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha256

from protocol.announcements import Announcement
from protocol.canonical import encode
from protocol.errors import BadModel, ManyhandsError, PeerMisbehaved, PeerRefused
from protocol.manifest import SIGNATURE, Manifest
from protocol.transport import Connection, Transport
from protocol.transport.paths import paths_of

METHOD, MANIFEST = "file", "manifest"
TIMEOUT_S = 30.0  # manifests of large models are not small


async def fetch_small_files(
    transport: Transport,
    hosts: Sequence[Announcement],
    digest: bytes,
    *,
    also: Collection[str] = (),
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the small files of a model, by name, from the first host that has them.

    `also`: files to fetch besides, where the model has them: a node needs the index of weights, and
    what was signed.

    Raises:
        PeerMisbehaved: what a host served does not match the digest.
        BadModel: no host is known.
        ManyhandsError: why the last host failed.
    """
    error: ManyhandsError = BadModel("nobody here serves that model")
    for host in hosts:
        try:
            async with connected(transport, host) as connection:
                return await _fetch(connection, digest, also)
        except ManyhandsError as failure:
            error = failure
    raise error


@asynccontextmanager
async def connected(transport: Transport, host: Announcement) -> AsyncIterator[Connection]:
    """A connection to a host, by the best way that works.

    Raises:
        ManyhandsError: why there is none.
    """
    connection = await paths_of(transport).dial(host.peer_id, host.to_dial)
    try:
        yield connection
    finally:
        await connection.aclose()


async def fetch_manifest(connection: Connection, digest: bytes) -> Manifest:
    """Raises PeerMisbehaved when it is not the one the host announces."""
    manifest = Manifest.from_json(await _file(connection, digest, MANIFEST))
    if manifest.digest != digest:
        raise PeerMisbehaved(connection.peer_id, "it served another manifest than it announces")
    return manifest


async def _file(connection: Connection, digest: bytes, name: str) -> bytes:
    return await connection.call(METHOD, encode([digest, name]), timeout_s=TIMEOUT_S)


async def _fetch(
    connection: Connection, digest: bytes, also: Collection[str]
) -> tuple[Manifest, dict[str, bytes]]:
    manifest = await fetch_manifest(connection, digest)
    files = {}
    more = [entry for entry in manifest.files if entry.name in also]
    for entry in (*manifest.small_files(), *more):
        content = await _file(connection, digest, entry.name)
        if (len(content), sha256(content).digest()) != (entry.n_bytes, entry.sha256):
            raise PeerMisbehaved(connection.peer_id, f"it served another {entry.name}")
        files[entry.name] = content
    if SIGNATURE in also:
        with suppress(PeerRefused):  # it has none, as most
            files[SIGNATURE] = await _file(connection, digest, SIGNATURE)
    return manifest, files
