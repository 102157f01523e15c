"""What a hub publishes, as a manifest: the same digest as a whole copy has, without its weights.

In: a `Hub`. Out: the manifest and the small files. The hub states sizes and SHA-256 of large
files; where tensors lie is in the first bytes of each, small files are read and hashed here.
Weights are read only where a hub states no hash for them, and then only small ones.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

from manyhands.weights.hub import Hub, Published
from protocol.describing import describe, parse_config, weights_files
from protocol.errors import BadModel, IntegrityError
from protocol.manifest import INDEX, MAX_SMALL_BYTES, SIGNATURE, FileEntry, Manifest
from protocol.tensor_table import TensorEntry
from protocol.text import TEXT_FILES

AT_ONCE = 8  # headers asked for
UNSTATED_BYTES = 64 * 2**20  # weights without a stated hash are read whole up to this


def describe_published(hub: Hub, published: Published) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest of a model on a hub, and its small files by name, the index among them.

    Raises:
        BadModel: it is no model that can be served. HubUnreachable, HubRefused: see `Hub`.
    """
    here = published.files
    names = [n for n in (*TEXT_FILES, INDEX, SIGNATURE) if n in here]
    if sum(here[n].n_bytes for n in names) > 2 * MAX_SMALL_BYTES:
        raise BadModel(f"the small files of {hub.name} are not small")
    if "config.json" not in here:
        raise BadModel(
            f"{hub.name} has no config.json", hint="name a model in the transformers layout"
        )
    small = {name: _read(hub, published, name) for name in names}
    weights = weights_files(
        small.get(INDEX), [n for n in here if not n.endswith(".gguf")], hub.name
    )
    if lacking := [file for file in weights if file not in here]:
        raise BadModel(
            f"{hub.name} has no {lacking[0]}",
            hint="name a model with *.safetensors files; for a GGUF file: hf download, then "
            "manyhands serve FILE.gguf",
        )
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda file: hub.table(file, here[file].n_bytes), weights)
        tables: Mapping[str, Mapping[str, TensorEntry]] = dict(zip(weights, found, strict=True))
    files = [
        FileEntry(n, len(content), sha256(content).digest())
        for n, content in small.items()
        if n != SIGNATURE
    ]
    files += [FileEntry(n, here[n].n_bytes, _hash(hub, published, n)) for n in weights]
    manifest = describe(
        parse_config(small["config.json"], hub.name),
        files,
        tables,
        name=hub.name,
        licence=published.licence,
        revision=published.commit,
    )
    return manifest, small


def _read(hub: Hub, published: Published, name: str) -> bytes:
    entry = published.files[name]
    content = hub.read(name, 0, entry.n_bytes, entry.n_bytes)
    if entry.sha256 is not None and sha256(content).digest() != entry.sha256:
        raise IntegrityError(
            f"the hub served another {name} than it publishes", hint="try again later"
        )
    return content


def _hash(hub: Hub, published: Published, name: str) -> bytes:
    entry = published.files[name]
    if entry.sha256 is not None:
        return entry.sha256
    if entry.n_bytes > UNSTATED_BYTES:
        raise BadModel(f"the hub states no hash for {name} of {hub.name}")
    return sha256(_read(hub, published, name)).digest()
