"""Where invites are redeemed: at the nodes of admins, each of which remembers what it gave.

In: redemptions from strangers. Out: certificates, or one and the same refusal. What is given is on
the disk before it is sent: the register is a file of JSON lines under the swarm's home, which only
ever grows. Who may join by what is `protocol.membership.joining`'s to say.
"""

import asyncio
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.clock import wall_ms
from protocol.errors import ConfigError, ManyhandsError, PeerBusy
from protocol.identity import PeerId, peer_id_from_public_key
from protocol.membership.certificates import Certificate
from protocol.membership.gate import Membership
from protocol.membership.joining import redeem
from protocol.membership.roles import read_groups, read_roles, role_fields
from protocol.rate_limits import Limit, RateLimit
from protocol.signing import SigningKey

log = logging.getLogger(__name__)

# Of all strangers together, since identities cost them nothing: each takes a few signatures' time.
STRANGERS = Limit(per_s=5, burst=50)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the register: a key that joined."""

    invite: bytes
    certificate: Certificate

    def to_line(self) -> str:
        one = self.certificate
        fields = {
            "invite": self.invite.hex(),
            "peer": peer_id_from_public_key(one.peer),
            "key": one.peer.hex(),
            "roles": list(role_fields(one.roles, one.groups)),
            "issued_ms": one.issued_ms,
            "expires_ms": one.expires_ms,
        }
        return json.dumps(fields) + "\n"

    @classmethod
    def read(cls, line: str) -> "Entry":
        fields = json.loads(line)
        invite = bytes.fromhex(fields["invite"])
        certificate = Certificate(
            peer=bytes.fromhex(fields["key"]),
            roles=read_roles(fields["roles"]),
            issued_ms=int(fields["issued_ms"]),
            expires_ms=int(fields["expires_ms"]),
            invite=invite,
            groups=read_groups(fields["roles"]),
        )
        return cls(invite, certificate)


class Register:
    """See `protocol.membership.joining.Uses`. What `add` is given, `save` makes last."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            ConfigError: the file cannot be read as a register.
        """
        self._path = path
        self._new: list[Entry] = []
        try:
            lines = path.read_text().splitlines() if path.exists() else []
            # A line that a crash cut short was never answered.
            whole = lines if not lines or lines[-1].endswith("}") else lines[:-1]
            self.entries = [Entry.read(line) for line in whole]
        except (OSError, ValueError, KeyError, TypeError, ManyhandsError) as error:
            hint = "restore it from a backup: without it an invite could be used again"
            raise ConfigError(f"cannot read the register {path}: {error}", hint=hint) from error

    def of(self, grant_id: bytes) -> list[frozenset[bytes]]:
        homes: dict[int, set[bytes]] = {}
        for entry in self.entries:
            if entry.invite == grant_id:  # the keys of one home joined at one moment
                homes.setdefault(entry.certificate.issued_ms, set()).add(entry.certificate.peer)
        return [frozenset(keys) for keys in homes.values()]

    def add(self, grant_id: bytes, certificates: Sequence[Certificate]) -> None:
        added = [Entry(grant_id, certificate) for certificate in certificates]
        self.entries += added
        self._new += added

    def save(self) -> None:
        """Write what is new, and wait for the disk.

        Raises:
            OSError: it could not be; it counts all the same, until a restart.
        """
        new, self._new = self._new, []
        if not new:
            return
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, "".join(entry.to_line() for entry in new).encode())
            os.fsync(file)
        finally:
            os.close(file)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)


class Registrar:
    """The call that strangers may make."""

    def __init__(self, membership: Membership, key: SigningKey, path: Path) -> None:
        self._membership, self._key = membership, key
        self._register = Register(path)
        self._lock = asyncio.Lock()
        self._strangers = RateLimit(STRANGERS)

    async def handle(self, caller: PeerId, request: bytes) -> bytes:
        """
        Raises:
            ManyhandsError: why not; strangers do not get to hear it.
        """
        if not self._strangers.take("", 1.0, time.monotonic()):
            raise PeerBusy("", "too many ask to join")
        async with self._lock:
            try:
                state, register = self._membership.state, self._register
                answer = redeem(state, request, self._key, register, self._now_ms())
            except ManyhandsError as error:
                log.info("nobody joined", extra={"peer": caller, "reason": str(error)})
                raise
            await asyncio.to_thread(self._register.save)
        log.info("somebody joined", extra={"peer": caller})
        return answer

    def _now_ms(self) -> int:
        """Later than all that was issued: it tells the homes that joined by one invite apart."""
        entries = self._register.entries
        last_ms = entries[-1].certificate.issued_ms if entries else 0
        return max(wall_ms(), last_ms + 1)
