"""How far a client trusts its peers' work, by what this home found out about it.

In: findings, which audits and others' evidence fill. Out: whom it does not use at all, and what
the doubt about the others costs, in milliseconds per token. Who was never looked at is doubted
most, but only for a model of which anybody's work was looked at: where nobody audits, nothing is
weighed.
"""

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ledger.findings import FILE_NAME, Findings
from ledger.looks import Key
from ledger.reputation import UNSEEN
from protocol.announcements import Announcement
from protocol.identity import PeerId, peer_id_from_public_key, public_key_from_peer_id

WRONG_MS = 50.0  # what a wrong answer costs, over its tokens: it is noticed late, and asked again


@dataclass(frozen=True, slots=True)
class Trust:
    """shunned: peers in quarantine. reputations: of accounts, by model and execution profile."""

    shunned: frozenset[PeerId] = frozenset()
    reputations: Mapping[Key, float] = field(default_factory=dict)
    audited: frozenset[bytes] = frozenset()  # models

    @classmethod
    def of(
        cls, findings: Findings, trusted: Iterable[bytes], *, quarantine: bool = True
    ) -> "Trust":
        """trusted: auditors whose word is enough. quarantine: not to use who is at fault."""
        standings = findings.standings(time.time())
        at_fault = findings.at_fault(trusted) if quarantine else {}
        return cls(
            frozenset(map(peer_id_from_public_key, at_fault)),
            {key: standing.reputation for key, standing in standings.items()},
            frozenset(manifest for _, manifest, _ in standings),
        )

    def beside(self, other: "Trust") -> "Trust":
        """With what another party of the home found; of what both looked at, this one's counts."""
        return Trust(
            self.shunned | other.shunned,
            {**other.reputations, **self.reputations},
            self.audited | other.audited,
        )

    def risk_ms(self, peer: Announcement) -> float:
        """What the doubt about its work costs, per token."""
        if peer.manifest not in self.audited:
            return 0.0
        key = (public_key_from_peer_id(peer.peer_id), peer.manifest, peer.profile)
        reputation = self.reputations.get(key, UNSEEN.reputation)
        return (1.0 - reputation) * WRONG_MS


NO_TRUST = Trust()


def read_trust(
    directories: Iterable[Path],
    swarm_id: bytes,
    trusted: Collection[bytes],
    *,
    quarantine: bool = True,
) -> Trust:
    """What a home's parties found; where they have no findings, nothing.

    Raises:
        ConfigError, IntegrityError: they are there, and cannot be used.
    """
    known = NO_TRUST
    for directory in directories:
        if (directory / FILE_NAME).exists():
            with Findings.open(directory, swarm_id) as findings:
                known = known.beside(Trust.of(findings, trusted, quarantine=quarantine))
    return known
