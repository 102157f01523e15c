"""What members of a swarm say on a local network, so that members alone can read it.

In: the swarm's id, which no stranger knows; where a node's service listens. Out: the name of a
multicast DNS service, and values for it. Each address is sealed under a key made from the id
(ChaCha20-Poly1305, RFC 8439). So whoever hears one cannot read it, and cannot make another: nobody
is led to a machine of a stranger's, where a first call would show which swarm we are of. Who was a
member once knows the id; what counts for membership is shown in TLS, as for everybody.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from protocol.address import Address
from protocol.errors import UsageError

MAX_TOLD = 6  # addresses; a record of multicast DNS should fit a packet
MAX_VALUE_BYTES = 240  # with its name it is one string of a TXT record, of 255 bytes at most
_NAME, _NONCE_BYTES = "mh", 12


class SealedWords:
    """For `LocalNetwork`."""

    def __init__(self, swarm_id: bytes) -> None:
        key = sha256(b"manyhands-local-network-v1\x00" + swarm_id).digest()
        name = sha256(b"manyhands-local-name-v1\x00" + key).hexdigest()[:10]
        self.type = f"_mh-{name}._tcp.local."  # RFC 6763: 15 characters at most
        self._box = ChaCha20Poly1305(key)

    def tell(self, addresses: Sequence[Address]) -> Mapping[str, bytes]:
        sealed = map(self._seal, addresses[:MAX_TOLD])
        return {f"{_NAME}{n}": value for n, value in enumerate(sealed)}

    def read(self, properties: Iterable[tuple[bytes, bytes | None]]) -> list[Address]:
        found = []
        for name, value in properties:
            if name.startswith(_NAME.encode()) and value and len(value) <= MAX_VALUE_BYTES:
                address = self._opened(value)
                if address is not None:
                    found.append(address)
        return found

    def _seal(self, address: Address) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._box.encrypt(nonce, str(address).encode(), None)

    def _opened(self, value: bytes) -> Address | None:
        """None: it is of another swarm, or of nobody."""
        nonce, sealed = value[:_NONCE_BYTES], value[_NONCE_BYTES:]
        try:
            return Address.parse(self._box.decrypt(nonce, sealed, None).decode("ascii"))
        except (InvalidTag, ValueError, UsageError):  # ValueError: too short, or no text
            return None
