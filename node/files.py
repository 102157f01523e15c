"""A model's small files, served by digest (DESIGN 5a.14): a client needs only an address.

In: a manifest's digest and a file's name. Out: its bytes: the manifest, config, tokenizer and
generation config, at most 32 MiB in all. Never weights.
"""

from collections.abc import Mapping

from protocol.canonical import decode
from protocol.errors import PeerMisbehaved, PeerRefused
from protocol.identity import PeerId

METHOD = "file"
MANIFEST = "manifest"


class SmallFiles:
    """The handler of the call `file`: [digest, name] in deterministic CBOR."""

    def __init__(self, digest: bytes, files: Mapping[str, bytes]) -> None:
        self._digest, self._files = digest, files

    async def handle(self, peer_id: PeerId, request: bytes) -> bytes:
        match decode(request):
            case [bytes(digest), str(name)]:
                pass
            case _:
                raise PeerMisbehaved(peer_id, "a file is asked for by digest and name")
        if digest != self._digest:
            raise PeerRefused("", "this node serves another model")
        if name not in self._files:
            raise PeerRefused("", f"the model has no small file {name[:80]!r}")
        return self._files[name]
