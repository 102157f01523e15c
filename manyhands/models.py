"""MODEL on the command line: `tiny`, a directory, a GGUF file, or a name on the Hugging Face hub.

In: what a person wrote. Out: a directory that holds the whole model, and its manifest, whose digest
names the model to all peers. Hashes of weights are remembered in the user's cache, so only the
first use of a model reads all of it. Loading a span is left to `node.engine`.
"""

import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from protocol.adapter_names import is_adapter
from protocol.describing import make_manifest
from protocol.errors import BadModel
from protocol.manifest import INDEX, SINGLE, Manifest
from protocol.text import TEXT_FILES

TINY = "tiny"
BUILT_IN = Path(__file__).parent / "models" / TINY
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB_PROBE_S = 3.0

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Model:
    """A model that lies on this machine. `asked` is what the person wrote, `name` short for it."""

    asked: str
    name: str
    directory: Path
    manifest: Manifest
    adapter: str = ""  # that answers shall be made with

    def small_files(self) -> dict[str, bytes]:
        """What any peer serves of it by digest: all but the weights, and the manifest itself."""
        files = {
            file.name: (self.directory / file.name).read_bytes()
            for file in self.manifest.small_files()
        }
        return files | {"manifest": self.manifest.to_json()}


def split_adapter(text: str) -> tuple[str, str]:
    """`MODEL:ADAPTER` in two; a path that exists is a model, whatever is in its name."""
    model, colon, adapter = text.rpartition(":")
    if not colon or not is_adapter(adapter) or Path(text).expanduser().exists():
        return text, ""
    return model, adapter


def find_model(text: str, *, progress: Progress | None = None) -> Model:
    """The model a person means; one that is not here is downloaded.

    Raises:
        BadModel: it is missing, damaged, or cannot be fetched now.
    """
    directory = _locate(text)
    name = _name(text, directory)

    def hashing(file: str, fraction: float) -> None:
        if progress and file.endswith((".safetensors", ".gguf")):
            progress(f"checking {file}", fraction)

    manifest = make_manifest(directory, name=name, cache=_cache("hashes"), progress=hashing)
    return Model(text, name, directory, manifest)


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
    if HUB_NAME.fullmatch(text) and not text.startswith("."):
        return _download(text)
    raise BadModel(
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


def _download(name: str) -> Path:
    """A snapshot of the needed files, from the hub's cache or the hub."""
    from huggingface_hub import constants, snapshot_download  # slow; only for hub names

    patterns = [*TEXT_FILES, "*.safetensors", INDEX, SINGLE]
    offline = bool(os.environ.get("HF_HUB_OFFLINE"))
    local_only = offline or not _hub_answers(constants.ENDPOINT)
    try:
        path = snapshot_download(name, allow_patterns=patterns, local_files_only=local_only)
    except Exception as error:  # the library raises its own, its HTTP library's and OS errors
        if local_only:
            raise BadModel(
                f"{name} is no directory here, and the hub cannot be reached for it",
                hint="give a directory, or connect once: hf download " + name,
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadModel(
            f"{name} cannot be fetched from the hub: {reason}",
            hint="check the name; for a gated model, log in first: hf auth login",
        ) from error
    return Path(path)


def _hub_answers(endpoint: str) -> bool:
    """Whether the hub, or the proxy in front of it, takes connections: seconds, not minutes."""
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    parts = urlsplit(proxy or endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=HUB_PROBE_S).close()
    except OSError:
        return False
    return True


def _cache(name: str) -> Path:
    import platformdirs

    return platformdirs.user_cache_path("manyhands") / name
