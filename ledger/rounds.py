"""Several auditors look at one thing, and none of them can write down what another found.

In: commitments first, from all, then verdicts. Out: the verdicts that were committed to in time,
and how well each auditor did on windows of which is known how they are: some of what is looked at
is made wrong on purpose, some is right. Whoever does not compute can only guess, and guesses wrong
on these. Nobody is paid for agreeing with others.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ledger.errors import BadProof
from ledger.verdicts import MATCH, Verdict, commitment
from protocol.signing import Envelope

LEAST_SEEDS = 4  # known windows before anything is said about an auditor
LEAST_RIGHT = 0.9


class Round:
    """One window, before these auditors. First all commit, then all show."""

    def __init__(self, auditors: Iterable[bytes], swarm_id: bytes) -> None:
        self._awaited = frozenset(auditors)
        self._swarm_id = swarm_id
        self._commitments: dict[bytes, bytes] = {}
        self._is_closed = False
        self.verdicts: dict[bytes, Verdict] = {}

    @property
    def is_open(self) -> bool:
        """Whether commitments are taken still."""
        return not self._is_closed and len(self._commitments) < len(self._awaited)

    def commit(self, auditor: bytes, commitment: bytes) -> None:
        """
        Raises:
            BadProof: it is too late, or this auditor has committed, or is none.
        """
        if not self.is_open or auditor not in self._awaited or auditor in self._commitments:
            raise BadProof("no commitment of this auditor is awaited")
        self._commitments[auditor] = commitment

    def close(self) -> None:
        """Time is up: who has not committed takes no part."""
        self._is_closed = True

    def reveal(self, auditor: bytes, verdict: Envelope) -> None:
        """
        Raises:
            BadProof: others commit still, or this is not what the auditor committed to.
            IntegrityError: it is no verdict of this auditor.
        """
        if self.is_open:
            raise BadProof("verdicts are shown when all have committed")
        if self._commitments.get(auditor) != commitment(auditor, verdict, self._swarm_id):
            raise BadProof("this is not the verdict that was committed to")
        opened = Verdict.open(verdict, self._swarm_id, auditor)
        if any(opened.job_nonce == known.job_nonce for known in self.verdicts.values()):
            raise BadProof("this look is another auditor's")
        self.verdicts[auditor] = opened

    @property
    def silent(self) -> frozenset[bytes]:
        """Who committed to nothing, or did not show it."""
        return self._awaited - self.verdicts.keys()


@dataclass(frozen=True, slots=True)
class Grade:
    """How an auditor did on windows of which is known how they are."""

    right: int = 0
    wrong: int = 0

    @property
    def is_trusted(self) -> bool | None:
        """None: too few to say."""
        seen = self.right + self.wrong
        return None if seen < LEAST_SEEDS else self.right >= LEAST_RIGHT * seen


def grades(rounds: Mapping[Round, bool]) -> dict[bytes, Grade]:
    """Each auditor's, over rounds about seeded windows: whether each of them is good.

    Who is silent about one was wrong about it.
    """
    found: dict[bytes, Grade] = {}
    for round_, is_good in rounds.items():
        for auditor in round_.silent:
            grade = found.get(auditor, Grade())
            found[auditor] = Grade(grade.right, grade.wrong + 1)
        for auditor, verdict in round_.verdicts.items():
            grade = found.get(auditor, Grade())
            is_right = (verdict.result == MATCH) == is_good
            found[auditor] = Grade(grade.right + is_right, grade.wrong + (not is_right))
    return found
