"""What parties tell each other over calls, as vectors; `test_told.py` reads them without us."""

from struct import pack

from ledger.fault_words import ID_BYTES, Asked, encode_told
from ledger.fingerprints import Opening, OpeningRequest, WindowTree, leaf_of
from ledger.forks import Side
from ledger.merkle import appended, inclusion_proof, leaf_hash
from ledger.parting import Parting
from ledger.roots import RowRoot
from ledger.spend_shelf import Forked, Head
from ledger.spend_words import Known, News, Published, Since, Wanted
from ledger.tally import Kin, Tally
from protocol import sent_rows
from protocol.owing import Owing, Showing
from protocol.windows import Window
from tests.ledger.parties import CLIENT, PROVIDER, STRANGER, SWARM
from tests.ledger.spenders import ANN, BEN, CY, DOT, allot, chained
from tests.ledger.test_spend_books import signed, tree_root

QUORUM = (0, 1, 2)
SALT = bytes(range(32))
PARTS = ((5, 32), (32, 41))  # of the positions that a tab ran, by windows


def _nodes(leaves):
    nodes = {}
    for size, data in enumerate(leaves):
        for level, index, hash_ in appended(size, leaf_hash(data), lambda lv, ix: nodes[lv, ix]):
            nodes[level, index] = hash_
    return lambda level, index: nodes[level, index]


def _side(leaves, index):
    path = inclusion_proof(index, len(leaves), _nodes(leaves))
    note = signed(ANN.public_key, leaves, QUORUM)
    return Side(note, leaf_hash(leaves[index]), tuple(path))


def spend_words():
    """Of one log with five entries, of another that a quorum signed twice."""
    shared = [allot(ANN, DOT, 1, no=number) for number in range(3)]
    one, other = (
        [leaf.encode() for leaf in chained(*shared, allot(ANN, payee, 9), allot(ANN, payee, 8))]
        for payee in (BEN, CY)
    )
    note, path = signed(ANN.public_key, one, QUORUM), inclusion_proof(2, 5, _nodes(one))
    account, since = ANN.public_key, Since(b"12345678", 7)
    heads, forks = (Head(account, 5, tree_root(one)),), (Forked(BEN.public_key), Forked(account, 3))
    return {
        "spend_wanted": Wanted(account, "tile/entries/000.p/5").encode(),
        "spend_since": since.encode(),
        "spend_news": News(since, True, heads, forks).encode(),
        "spend_published": Published(account, note, 3, tuple(one[3:])).encode(),
        "spend_published_part": Published(account, note, 1, tuple(one[1:3]), tuple(path)).encode(),
        "spend_known": Known(3, False).encode(),
        "parting": Parting(account, 3, _side(one, 3), _side(other, 3)).encode(),
    }


def owing_words():
    said = Tally(
        payer=CLIENT.public_key, payee=PROVIDER.public_key, served=300, settled=120, issued_ms=5
    )
    kin = Kin(node=STRANGER.public_key, client=CLIENT.public_key, issued_ms=5)
    mutual = said.seal(SWARM, PROVIDER, CLIENT).encode()
    shown = Showing(kin=kin.seal(SWARM, STRANGER, CLIENT).encode(), tallies=(mutual,))
    told = Owing(
        owed_ncr=180, credit_ncr=900, tally=said.seal(SWARM, PROVIDER).encode(), others=(mutual,)
    )
    return {"owing_shown": shown.encode(), "owing_told": told.encode()}


def audit_words(fault, terms, statement):
    """A fault that is told, and the window of a statement opened.

    statement: makes one with this fp_root.
    """
    rows = [(start, [n / 4 for n in range(8 * (stop - start))]) for start, stop in PARTS]
    data = [Window(start, pack(f"<{len(each)}f", *each)).encode() for start, each in rows]
    tree = WindowTree(5, 41, [leaf_of(each, SALT) for each in data])
    shown = {1: (data[1], tuple(tree.path(1)))}
    opening = Opening(statement(tree.root()), 5, 41, tree.merkle_root(), shown)
    known = frozenset({bytes([9]) * ID_BYTES, bytes([7]) * ID_BYTES})
    return {
        "faults_asked": Asked(known, (fault,)).encode(),
        "faults_told": encode_told([fault]),
        "fingerprints_asked": OpeningRequest(terms.object_id(SWARM), (1,)).encode(),
        "fingerprints_opened": opening.encode(),
        **_sent_words(terms.object_id(SWARM)),
    }


def _sent_words(terms_oid):
    """The first part of five rows of three bytes, and the root of the first two of them."""
    rows, root = bytes(range(12)), RowRoot(SALT)
    root.add(0, rows, 3)
    return {
        "sent_rows_asked": sent_rows.request_bytes(terms_oid, 0),
        "sent_rows_shown": sent_rows.SentPart(3, 0, 5, rows).encode(),
        "sent_rows_root": root.at(2),
    }
