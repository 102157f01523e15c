"""MODEL on the command line: `tiny`, a directory, a GGUF file, or a name on the Hugging Face hub.

In: what a person wrote. Out: a directory and its manifest, whose digest names the model to all
peers. A model that a person put here is there as a whole; one that came by name may lack weights,
then `store` says what is here and `hub` has the rest. Hashes of weights are remembered in the
user's cache, so only the first use of a model reads all of it. Fetching is left to `fetching.py`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manyhands.licences import read_licence
from protocol.adapter_names import is_adapter
from protocol.describing import make_manifest
from protocol.errors import BadModel, HubUnreachable, NoSuchModel
from protocol.manifest import SIGNATURE, Manifest

if TYPE_CHECKING:
    from manyhands.weights.hub import Hub
    from manyhands.weights.store import Store

TINY = "tiny"
BUILT_IN = Path(__file__).parent / "models" / TINY
HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
RECORD = "fetched.json"  # in a directory that holds what was fetched of a model

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Model:
    """A model that lies on this machine. `asked` is what the person wrote, `name` short for it."""

    asked: str
    name: str
    directory: Path
    manifest: Manifest
    adapter: str = ""  # that answers shall be made with
    store: "Store | None" = None  # where weights may be missing
    hub: "Hub | None" = None  # that has them
    signature: str = ""  # what its publisher's says, once it was checked

    def small_files(self) -> dict[str, bytes]:
        """What any peer serves of it by digest: all but the weights, and the manifest itself."""
        files = {
            file.name: (self.directory / file.name).read_bytes()
            for file in self.manifest.files
            if not file.is_weights
        }
        if (signature := self.directory / SIGNATURE).is_file():
            files[SIGNATURE] = signature.read_bytes()  # not in the digest: it proves itself
        manifest = self.manifest if self.store is None else self.store.known
        return files | {"manifest": manifest.to_json()}


def split_adapter(text: str) -> tuple[str, str]:
    """`MODEL:ADAPTER` in two; a path that exists is a model, whatever is in its name."""
    model, colon, adapter = text.rpartition(":")
    if not colon or not is_adapter(adapter) or Path(text).expanduser().exists():
        return text, ""
    return model, adapter


class NotHere(NoSuchModel):
    """A name that means no directory here, and no model of a hub."""


class HubAway(HubUnreachable):
    """A name that means no directory here, and that no hub can be asked for now."""


def find_model(text: str, *, progress: Progress | None = None) -> Model:
    """The model a person means; of one that is only on the hub, all but the weights.

    Raises:
        BadModel: it is damaged.
        NoSuchModel: it is neither here nor on the hub.
        HubRefused, HubUnreachable: the hub does not give it, or not now.
    """
    named = HUB_NAME.fullmatch(text)
    if named and not text.startswith((".", "/")) and not Path(text).expanduser().exists():
        return _from_hub(named[1], named[2] or "main", progress)
    directory = _locate(text)
    if (directory / RECORD).exists():
        return _from_store(text, directory)
    return _described(text, _name(text, directory), directory, "", progress)


def _described(
    text: str, name: str, directory: Path, revision: str, progress: Progress | None
) -> Model:
    def hashing(file: str, fraction: float) -> None:
        if progress and file.endswith((".safetensors", ".gguf")):
            progress(f"checking {file}", fraction)

    manifest = make_manifest(
        directory,
        name=name,
        licence=read_licence(directory),
        revision=revision,
        cache=_cache("hashes"),
        progress=hashing,
    )
    return Model(text, name, directory, manifest)


def _from_hub(name: str, revision: str, progress: Progress | None) -> Model:
    from manyhands.weights.named import find_named  # loads the hub's library

    if progress:
        progress("asking the hub", 0.0)
    found = find_named(name, revision)
    if found is None:
        raise HubAway(
            f"{name} is no directory here, and the hub cannot be reached for it",
            hint="give a directory, join peers that have it, or connect once: hf download " + name,
        )
    if found.store is None:
        return _described(name, name, found.directory, found.revision, progress)
    manifest = found.store.manifest
    return Model(name, name, found.directory, manifest, store=found.store, hub=found.hub)


def _from_store(text: str, directory: Path) -> Model:
    from manyhands.weights.named import open_store

    store = open_store(directory)
    if store is None:
        raise BadModel(f"the small files in {directory} are damaged", hint="remove it")
    return Model(text, store.manifest.name, directory, store.manifest, store=store)


def _locate(text: str) -> Path:
    if text == TINY:
        return BUILT_IN
    path = Path(text).expanduser()
    if packed := _packed(path):
        from node.engine.gguf import unpack  # loads torch

        return unpack(packed, _cache("gguf"))
    if path.is_dir():
        return path
    if path.exists():
        raise BadModel(f"{text} is a file", hint="give the directory that holds config.json")
    raise NotHere(
        f"there is no model directory {text}",
        hint="give `tiny`, a directory of config.json and *.safetensors, a GGUF file, or ORG/NAME",
    )


def _packed(path: Path) -> Path | None:
    """The GGUF file that is meant: itself, or the only one in a directory without config.json."""
    if path.suffix == ".gguf" and path.is_file():
        return path
    found = list(path.glob("*.gguf")) if path.is_dir() else []
    return found[0] if len(found) == 1 and not (path / "config.json").exists() else None


def _name(text: str, directory: Path) -> str:
    """A short, printable name for people; the manifest's digest is what counts."""
    path = Path(text).expanduser()
    if packed := _packed(path):
        name = packed.stem
    else:
        name = directory.resolve().name if path.is_dir() and text != TINY else text
    return "".join(c for c in name if c.isprintable())[:100] or "model"


def _cache(name: str) -> Path:
    import platformdirs

    return platformdirs.user_cache_path("manyhands") / name
