"""Which faults convince whoever reads them, knowing nothing but the swarm and the accused.

In: a fault, as it was signed by whoever reports it. Out: who is accused of what, and on whose word
it rests: on nobody's where signatures of the accused contradict each other, on the auditors' where
numbers deviate. What follows from it is everybody's own policy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from ledger.errors import BadProof
from ledger.fingerprints import Opening, fp_root, leaf_of, n_windows
from ledger.forks import KIND as FORK
from ledger.forks import check_fork
from ledger.merkle import HASH_BYTES, verify_inclusion
from ledger.objects import Statement, Terms, Voucher
from ledger.spending import Fault
from ledger.tab import PayerTab, ProviderTab
from ledger.verdicts import MISMATCH, Verdict
from protocol.canonical import decode, encode
from protocol.messages import MAX_POSITIONS
from protocol.signing import Envelope
from protocol.windows import WINDOW

COMPUTE, DOUBLE_SEQ = "compute", "double_seq"
LEAST_OPINIONS = 2  # of one leaf; a single one is a suspicion


@dataclass(frozen=True, slots=True)
class Finding:
    """What a fault shows. auditors: on whose word it rests; none: the accused's own signatures."""

    kind: str
    accused: bytes
    auditors: tuple[bytes, ...] = ()
    what: str = ""

    @property
    def is_self_proving(self) -> bool:
        return not self.auditors


@dataclass(frozen=True, slots=True)
class Leaf:
    """Where a window's fingerprint stands under a statement, without the fingerprint.

    start, stop: the positions that the statement's `fp_root` is about. root: over their windows.
    """

    window_no: int
    hash: bytes
    start: int
    stop: int
    root: bytes
    path: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, opening: Opening, window_no: int, salt: bytes) -> Self:
        """As it stands in what a hop opened."""
        window, path = opening.shown[window_no]
        leaf = leaf_of(window, salt)
        return cls(window_no, leaf, opening.start, opening.stop, opening.root, path)

    def encode(self) -> bytes:
        told = (self.window_no, self.hash, self.start, self.stop, self.root, self.path)
        return encode((1, *told))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        match decode(data):
            case [1, window, leaf, start, stop, root, [*path]] if (
                all(type(number) is int for number in (window, start, stop))
                and all(type(each) is bytes for each in (leaf, root, *path))
                and {HASH_BYTES} == {len(each) for each in (leaf, root, *path)}
            ):
                return cls(window, leaf, start, stop, root, tuple(path))
        raise BadProof("a leaf is a window, a hash, positions, a root, and a path")

    def check(self, statement: Statement) -> None:
        """Whether the statement commits to it.

        Raises:
            BadProof: it does not.
        """
        if statement.fp_root is None:
            raise BadProof("the statement commits to no fingerprints")
        if not self.start < self.stop or fp_root(self.start, self.stop, self.root) != (
            statement.fp_root
        ):
            raise BadProof("these are not the windows that the statement commits to")
        if self.stop - self.start > MAX_POSITIONS:
            raise BadProof("fingerprints of more positions than any session has")
        place = self.window_no - self.start // WINDOW
        n = n_windows(self.start, self.stop)
        verify_inclusion(self.hash, place, n, self.path, self.root)


def judge(fault: Fault, swarm_id: bytes) -> Finding:
    """What this fault shows.

    Raises:
        IntegrityError: nothing: it is of no kind that is known here, or does not convince.
    """
    if (check := _KINDS.get(fault.kind)) is None:
        raise BadProof(f"{fault.kind!r} is no fault that is known here")
    return check(fault, swarm_id)


def _fork(fault: Fault, swarm_id: bytes) -> Finding:
    check_fork(fault, swarm_id)
    return Finding(FORK, fault.accused, what="showed two versions of a log")


def double_seq_fault(accused: bytes, one: Envelope, other: Envelope, swarm_id: bytes) -> Fault:
    """The fault of who signed two statements, or two vouchers, of one tab under one number.

    Raises:
        IntegrityError: these are not that.
    """
    return _made(DOUBLE_SEQ, accused, (one.encode(), other.encode()), swarm_id)


def faults_of(tab: ProviderTab | PayerTab, swarm_id: bytes) -> list[Fault]:
    """What the other side of a tab signed that nobody honest signs."""
    other = tab.terms.payer_key if isinstance(tab, ProviderTab) else tab.terms.payee_key
    return [double_seq_fault(other, *found.evidence, swarm_id) for found in tab.faults]


def _double_seq(fault: Fault, swarm_id: bytes) -> Finding:
    if len(fault.evidence) != 2:
        raise BadProof("it takes two statements, or two vouchers")
    one, other = map(Envelope.decode, fault.evidence)
    if one.type != other.type or (kind := _NUMBERED.get(one.type)) is None:
        raise BadProof("it takes two statements, or two vouchers")
    first, second = (kind.open(each, swarm_id, fault.accused) for each in (one, other))
    if one.payload == other.payload:
        raise BadProof("the two are one")
    if (first.session_id, first.seq) != (second.session_id, second.seq):
        raise BadProof("the two are not of one tab and one number")
    name = kind.__name__.lower()
    return Finding(DOUBLE_SEQ, fault.accused, what=f"signed two {name}s under one number")


def compute_fault(
    accused: bytes,
    terms: Envelope,
    statement: Envelope,
    leaf: Leaf,
    verdicts: Sequence[Envelope],
    swarm_id: bytes,
) -> Fault:
    """The fault of whose committed output several looks found wrong.

    Raises:
        IntegrityError: they do not say that.
    """
    pieces = (terms, statement, *verdicts)
    evidence = [each.encode() for each in pieces]
    return _made(COMPUTE, accused, (*evidence[:2], leaf.encode(), *evidence[2:]), swarm_id)


def _compute(fault: Fault, swarm_id: bytes) -> Finding:
    if len(fault.evidence) < 3 + LEAST_OPINIONS:
        raise BadProof("it takes terms, a statement, a leaf, and two verdicts")
    bond, stated, shown, *judged = fault.evidence
    terms, statement = _stated(
        Envelope.decode(bond), Envelope.decode(stated), fault.accused, swarm_id
    )
    leaf = Leaf.decode(shown)
    leaf.check(statement)
    nonces: set[bytes] = set()
    auditors: set[bytes] = set()
    for piece in judged:
        envelope = Envelope.decode(piece)
        if len(envelope.signers) != 1 or envelope.signers[0] == fault.accused:
            raise BadProof("a verdict is signed by one auditor, who is not the accused")
        verdict = Verdict.open(envelope, swarm_id, *envelope.signers)
        about = (verdict.session_id, verdict.window_no, verdict.fp_leaf)
        if about != (statement.session_id, leaf.window_no, leaf.hash):
            raise BadProof("the verdicts are about another window than is shown")
        if verdict.result != MISMATCH:
            raise BadProof("a verdict does not say that the work was wrong")
        nonces.add(verdict.job_nonce)
        auditors.update(envelope.signers)
    if len(nonces) != len(judged):
        raise BadProof("two of the verdicts are one look")
    blocks = f"blocks {terms.layer_lo}:{terms.layer_hi}"
    what = f"{blocks} gave wrong outputs, {len(judged)} times out of {len(judged)}"
    return Finding(COMPUTE, fault.accused, tuple(sorted(auditors)), what)


def _stated(
    bond: Envelope, stated: Envelope, accused: bytes, swarm_id: bytes
) -> tuple[Terms, Statement]:
    """A statement by the accused, and the terms that it is under."""
    if len(bond.signers) != 2:
        raise BadProof("terms are signed by both parties")
    terms = Terms.open(bond, swarm_id, *bond.signers)
    statement = Statement.open(stated, swarm_id, accused)
    if {terms.payer_key, terms.payee_key} != set(bond.signers) or terms.payee_key != accused:
        raise BadProof("the terms are of others")
    if (statement.session_id, statement.terms_oid) != (terms.session_id, bond.object_id(swarm_id)):
        raise BadProof("the statement is not under these terms")
    return terms, statement


def _made(kind: str, accused: bytes, evidence: tuple[bytes, ...], swarm_id: bytes) -> Fault:
    fault = Fault(kind=kind, accused=accused, evidence=evidence)
    judge(fault, swarm_id)
    return fault


_NUMBERED: dict[str, type[Statement] | type[Voucher]] = {
    Statement.TYPE: Statement,
    Voucher.TYPE: Voucher,
}
_KINDS: dict[str, Callable[[Fault, bytes], Finding]] = {
    FORK: _fork,
    COMPUTE: _compute,
    DOUBLE_SEQ: _double_seq,
}
