"""A forked log is proven by an object that needs nothing else, and nothing else is proven."""

from dataclasses import replace

import pytest

from ledger.checkpoint import Checkpoint, origin
from ledger.forks import Side, check_fork, first_difference, fork_fault
from ledger.merkle import appended, inclusion_proof, leaf_hash, root
from ledger.spending import Fault
from protocol.errors import IntegrityError
from tests.ledger.spenders import ANN, BEN, CY, SWARM, allot, chained


class Version:
    """A spend log of Ann's, as she showed it to somebody."""

    def __init__(self, *envelopes):
        self.leaves = [leaf.encode() for leaf in chained(*envelopes)]
        self.nodes = {}
        for size, data in enumerate(self.leaves):
            for level, index, hash_ in appended(size, leaf_hash(data), self.at):
                self.nodes[level, index] = hash_

    def at(self, level, index):
        return self.nodes[level, index]

    def side(self, size, index=None, *, key=ANN, log="spend"):
        name = origin(SWARM, ANN.public_key, log)
        note = Checkpoint(name, size, root(size, self.at)).sign(key)
        if index is None:
            return Side(note)
        path = inclusion_proof(index, size, self.at)
        return Side(note, leaf_hash(self.leaves[index]), tuple(path))


SHARED = [allot(ANN, BEN, 1, no=i) for i in range(4)]
TO_BEN = Version(*SHARED, *(allot(ANN, BEN, 60, no=9 + i) for i in range(5)))
TO_CY = Version(*SHARED, *(allot(ANN, CY, 60, no=9 + i) for i in range(3)))


def test_28_two_versions_of_different_sizes_prove_a_fork_by_themselves():
    place = first_difference(TO_BEN.leaves, TO_CY.leaves)
    fault = fork_fault(ANN.public_key, SWARM, TO_BEN.side(9, place), TO_CY.side(6, place), place)

    sent = fault.seal(SWARM, BEN)
    heard = Fault.open(type(sent).decode(sent.encode()), SWARM, BEN.public_key)

    assert (heard.accused, check_fork(heard, SWARM)) == (ANN.public_key, 4)


def test_28_two_roots_of_one_size_need_no_leaves():
    fault = fork_fault(ANN.public_key, SWARM, TO_BEN.side(7), TO_CY.side(7))

    assert check_fork(fault, SWARM) == 0


@pytest.mark.parametrize(
    ("one", "other", "index"),
    [
        (TO_BEN.side(7), TO_BEN.side(7), 0),  # one and the same
        (TO_BEN.side(9), TO_BEN.side(7), 0),  # a log that grew
        (TO_BEN.side(9, 2), TO_CY.side(6, 2), 2),  # what both share
        (TO_BEN.side(9, 5), TO_CY.side(6, 4), 4),  # two places of one log
        (TO_BEN.side(9, 4), TO_BEN.side(7, 4), 4),
        (TO_BEN.side(9, 4), replace(TO_CY.side(6, 4), leaf_hash=bytes(32)), 4),
        (TO_BEN.side(9, 4), replace(TO_CY.side(6, 4), path=()), 4),
        (TO_BEN.side(7), TO_CY.side(7, key=BEN), 0),  # she did not sign that
        (TO_BEN.side(7), TO_CY.side(7, log="receipts"), 0),  # two logs
        (TO_BEN.side(7), Side("no note"), 0),
    ],
)
def test_what_is_no_fork_is_not_proven(one, other, index):
    with pytest.raises(IntegrityError):
        fork_fault(ANN.public_key, SWARM, one, other, index)


def test_a_fork_of_somebody_elses_or_in_another_swarm_accuses_nobody():
    fault = fork_fault(ANN.public_key, SWARM, TO_BEN.side(7), TO_CY.side(7))

    for wrong, swarm in (
        (replace(fault, accused=BEN.public_key), SWARM),
        (fault, bytes(32)),
        (replace(fault, kind="compute"), SWARM),
        (replace(fault, evidence=fault.evidence[:1]), SWARM),
        (replace(fault, evidence=(b"", b"")), SWARM),
    ):
        with pytest.raises(IntegrityError):
            check_fork(wrong, swarm)


@pytest.mark.parametrize(("size", "index"), [(7, 0), (7, 2), (7, 3), (6, 1), (2, 0)])
def test_bytes_moved_between_a_hash_and_the_next_make_no_fork_of_an_honest_log(size, index):
    """What a node is hashed from is two hashes put together, wherever they are cut apart."""
    ours, grown = TO_BEN.side(size, index), TO_BEN.side(9, index)
    sibling, *rest = ours.path
    if index & 1:
        leaf, path = sibling[-1:] + ours.leaf_hash, (sibling[:-1], *rest)
    else:
        leaf, path = ours.leaf_hash[:31], (ours.leaf_hash[31:] + sibling, *rest)
    moved = replace(ours, leaf_hash=leaf, path=path)

    evidence = (grown.encode(index), moved.encode(index))
    with pytest.raises(IntegrityError):
        check_fork(Fault(kind="fork", accused=ANN.public_key, evidence=evidence), SWARM)


def test_every_changed_byte_of_the_evidence_is_found():
    fault = fork_fault(ANN.public_key, SWARM, TO_BEN.side(9, 4), TO_CY.side(6, 4), 4)
    for number, piece in enumerate(fault.evidence):
        for place in range(0, len(piece), 7):
            changed = bytearray(piece)
            changed[place] ^= 1
            evidence = list(fault.evidence)
            evidence[number] = bytes(changed)
            with pytest.raises(IntegrityError):
                check_fork(replace(fault, evidence=tuple(evidence)), SWARM)


def test_where_one_version_is_the_beginning_of_the_other_there_is_no_difference():
    assert first_difference(TO_BEN.leaves, TO_BEN.leaves[:3]) is None
    assert first_difference(TO_BEN.leaves, TO_CY.leaves) == 4
