"""Reading somebody's spend log from tiles (C2SP tlog-tiles) into our books, a piece at a time.

In: a way to fetch paths of one log, from whoever serves it. Out: books that know what it shows, as
far as that holds. A piece is learned, and on disk, before the next one is asked for: however long a
log is, little of it is in memory, and who stops in the middle goes on from there. Where ours is
another version, tiles of hashes alone tell where the two part. It waits for disks and for `fetch`.
"""

from collections.abc import Callable

from ledger.errors import BadProof
from ledger.forks import Side
from ledger.merkle import earlier_path, inclusion_proof, parts_at
from ledger.parting import Parting, size_of
from ledger.spend_learning import Learner
from ledger.spend_shelf import CHECKPOINT, PARTING
from ledger.spend_words import Published
from ledger.tiles import HEIGHT, WIDTH, Fetch, Tile, TileTree, tiles_of, unbundle

PIECE, PIECE_BYTES = 4096, 2 * 2**20  # learned in one transaction; at least a tile
MAX_GROWTH, MAX_GROWTH_BYTES = 1 << 17, 1 << 26  # of one log, read in one go

PathTo = Callable[[int], list[bytes]]
"""The inclusion path of an entry in the tree of the checkpoint that is read up to."""


def read_log(learner: Learner, account: bytes, fetch: Fetch) -> bool:
    """Take in what is served of a log; whether that is all, else the rest is read the next time.

    Raises:
        IntegrityError: what is served does not hold.
        ManyhandsError: whatever `fetch` raises.
    """
    note = fetch(CHECKPOINT).decode(errors="replace")
    size = learner.size_of(account, note)  # before a leaf is asked for: anybody invents a size
    tree = TileTree(size, fetch)

    def path_to(index: int) -> list[bytes]:
        return inclusion_proof(index, size, tree.node_at)

    books, failure = learner.books, BadProof("nothing of it is as it was signed")
    if books.cut(account) is None and books.size(account) < size:
        try:
            return _grow(learner, account, note, size, path_to, fetch)
        except BadProof as error:  # a version that parted before ours ends
            failure = error
    known, node_at = books.tree(account)
    index = parts_at(node_at, known, tree.node_at, size, HEIGHT)
    if index is not None:
        books.differ(account, Side(note, tree.node_at(0, index), tuple(path_to(index))), index)
    elif books.cut(account) is None and known < size:
        raise failure
    return True


def read_parting(learner: Learner, account: bytes, fetch: Fetch) -> bool:
    """Take in where two versions of a log part that a quorum signed, and what is before that.

    Returns and raises as `read_log` does.
    """
    if not (data := fetch(PARTING)):
        return True
    parting = Parting.decode(data)
    if parting.account != account:
        raise BadProof("these are versions of another log")
    if learner.part(parting) or learner.books.cut(account) is not None:
        return True
    one, index = parting.one, parting.index
    tree = TileTree(index, fetch)

    def path_to(earlier: int) -> list[bytes]:
        size = size_of(one.note)
        return earlier_path(earlier, index, size, one.leaf_hash, one.path, tree.node_at)

    try:
        is_all = _grow(learner, account, one.note, index, path_to, fetch)
    except BadProof:  # ours parted from both before; who is shown it finds out where
        return True
    if is_all:
        learner.part(parting)
    return is_all


def _grow(
    learner: Learner, account: bytes, note: str, stop: int, path_to: PathTo, fetch: Fetch
) -> bool:
    """Learn the entries up to `stop` that we lack, in pieces; whether these were all.

    Raises:
        BadProof: they are no longer version of ours.
    """
    start = learner.books.size(account)
    last, n_bytes = start + MAX_GROWTH, 0
    while start < stop:
        if start >= last or n_bytes > MAX_GROWTH_BYTES:
            return False
        leaves = _piece(start, stop, fetch)
        n_bytes += sum(map(len, leaves))
        end = start + len(leaves)
        path = None if end == size_of(note) else tuple(path_to(end - 1))
        learned = learner.take(Published(account, note, start, tuple(leaves), path))
        if learned.error is not None:
            raise learned.error
        if learned.size < end:  # it was cut
            return True
        start = learned.size
    return True


def _piece(start: int, stop: int, fetch: Fetch) -> list[bytes]:
    leaves: list[bytes] = []
    n_bytes = 0
    for tile in tiles_of(stop, None, start):
        entries = _entries(tile, fetch)[max(0, start - tile.index * WIDTH) :]
        leaves += entries
        n_bytes += sum(map(len, entries))
        if len(leaves) >= PIECE or n_bytes >= PIECE_BYTES:
            break
    return leaves


def _entries(tile: Tile, fetch: Fetch) -> list[bytes]:
    entries = unbundle(fetch(tile.path()))
    if len(entries) != tile.width:
        raise BadProof(f"{tile.path()} has {len(entries)} entries, not {tile.width}")
    return entries
