"""What an auditor says of a session it looked at, in signed words.

In: a session that is over, what was heard of a window of it. Out: a look for this home's findings,
with the verdict; a fault, where two verdicts say that the work was wrong.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from ledger.judging import Leaf, compute_fault
from ledger.looks import Look
from ledger.objects import NO_OBJECT, Offer
from ledger.spending import Fault
from ledger.verdicts import MISMATCH, Verdict
from protocol.profile import Execution
from protocol.sampling import SamplingParams
from protocol.signing import Envelope, SigningKey
from scheduler.commitments import Commitment

Stats = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Session:
    """One that is over. ids: prompt and answer. sampling None: its draws cannot be judged.

    capacity: the positions that its hops had room for: no hop took in, or sent, more rows.
    was_mended: a hop was lost or handed over, so that some may have run parts of it only.
    was_drafted: some rows may have been run, and billed, more than once.
    """

    manifest: bytes
    ids: tuple[int, ...]
    n_prompt: int
    capacity: int
    hops: tuple[Commitment, ...]
    sampling: SamplingParams | None = None
    was_mended: bool = False
    was_drafted: bool = False

    @property
    def n_rows(self) -> int:
        """Positions that were run: the last token went into nothing."""
        return len(self.ids) - 1


@dataclass(frozen=True, slots=True)
class Teller:
    """Signs as one auditor."""

    key: SigningKey
    swarm_id: bytes

    def look(
        self,
        session: Session,
        hop: Commitment,
        result: str,
        stats: Stats,
        leaf: Leaf | None = None,
    ) -> Look:
        verdict = self._verdict(hop, result, stats, leaf)
        return Look(
            account=hop.terms.payee,
            manifest=session.manifest,
            profile=profile_of(hop, self.swarm_id),
            session_id=hop.terms.session_id,
            window_no=leaf.window_no if leaf else 0,
            span=f"{hop.terms.layer_lo}:{hop.terms.layer_hi}",
            result=result,
            parts=stats[0],
            verdict=verdict.encode(),
        )

    def fault(self, hop: Commitment, leaf: Leaf, found: Sequence[Stats]) -> Fault:
        """With a verdict for each opinion."""
        verdicts = [self._verdict(hop, MISMATCH, stats, leaf) for stats in found]
        bond, accused = hop.receipt.terms, hop.terms.payee
        return compute_fault(accused, bond, hop.envelope, leaf, verdicts, self.swarm_id)

    def _verdict(self, hop: Commitment, result: str, stats: Stats, leaf: Leaf | None) -> Envelope:
        verdict = Verdict(
            session_id=hop.terms.session_id,
            window_no=leaf.window_no if leaf else 0,
            fp_leaf=leaf.hash if leaf else NO_OBJECT,
            result=result,
            stats=stats,
            exec_profile=profile_of(hop, self.swarm_id),
            job_nonce=secrets.token_bytes(16),
        )
        return verdict.seal(self.swarm_id, self.key)


def profile_of(hop: Commitment, swarm_id: bytes) -> str:
    """How the work was to be run, without which software ran it."""
    offer = Offer.open(hop.receipt.offer, swarm_id, hop.terms.payee_key)
    return str(Execution.parse(offer.exec_profile).profile)
