"""What an auditor says about work that was committed before anybody knew it would be looked at.

A verdict is about one committed leaf: a window's fingerprint under a statement's `fp_root`. Its
numbers are what the auditor computed anew. Whether verdicts make a fault is left to `judging.py`,
who of several auditors worked to `rounds.py`.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, ClassVar

from ledger.errors import BadObject
from ledger.fields import Id16, Id32, SignedObject, Text, Uint, check_uint
from protocol.signing import Envelope

MATCH, MISMATCH, UNOPENED = "match", "mismatch", "unopened"
RESULTS = (MATCH, MISMATCH, UNOPENED)
MAX_STATS = 16
PARTS = 1_000_000  # numbers are told as parts of a million: nothing signed is a float


def check_result(value: Any) -> None:
    if value not in RESULTS:
        raise BadObject(f"a result is one of {', '.join(RESULTS)}")


def check_stats(value: Any) -> None:
    if type(value) is not tuple or not 0 < len(value) <= MAX_STATS:
        raise BadObject(f"expected 1 to {MAX_STATS} numbers")
    for number in value:
        check_uint(number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(SignedObject):
    """One look at one window. stats: deviations that were found, in parts of a million.

    job_nonce: drawn by the auditor for this look, so that two looks are two objects, and unknown to
    others until the verdict is shown. fp_leaf: zeros when nothing was opened in time.
    """

    TYPE: ClassVar[str] = "mh/verdict/1"

    session_id: Id16  # of the tab
    window_no: Uint
    fp_leaf: Id32
    result: Annotated[str, check_result]
    stats: Annotated[tuple[int, ...], check_stats]
    exec_profile: Text  # on what the reference ran
    job_nonce: Id16

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        return tuple(value) if name == "stats" and type(value) is list else value


def parts_of(ratio: float) -> int:
    """A deviation as it is told; what is no number deviates as much as can be told."""
    return min(round(ratio * PARTS), 2**53) if 0 <= ratio < 1e9 else 2**53


def commitment(auditor: bytes, verdict: Envelope, swarm_id: bytes) -> bytes:
    """What an auditor shows of its verdict before all have one.

    It hides the verdict, since nobody knows the nonce in it, and holds the auditor's key: who
    repeats another's commitment cannot open it.
    """
    return sha256(b"manyhands-verdict" + auditor + verdict.object_id(swarm_id)).digest()
