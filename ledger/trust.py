"""What a stranger is worth to us by the word of others whom we have reason to trust.

In: what counterparties did for us, tallies that two others signed, what everybody owes us. Out: how
much we may lend somebody. It is a max-flow (BarterCast: Meulpolder et al. 2009): an edge from who
worked to whom it was done for, as wide as that work, and from the stranger to us no more can flow
than the narrowest cut between lets through. A region of made-up accounts may sign among themselves
whatever they like: what flows out of it is what honest peers signed that it did for them.

What is lent already uses up the flow it was lent by, so that a region gets that much in all, not
each of its accounts anew. Pure. Amounts are ncr.
"""

from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush

from ledger.max_flow import Network
from ledger.tally import Tally

US = b""  # the vertex of all our keys
DEBTORS = b"\0"  # whence what is owed already flows
MAX_EDGES = 2_000  # of others, those that bear most to us: a flow is found in some milliseconds
MAX_LOOKS = 10_000  # at edges, in one question: it is asked where others wait for their tokens

Edges = Mapping[tuple[bytes, bytes], int]  # who worked, for whom: how much


class Trust:
    """Of one home, at one time: what it says to lend one is not lent to another by it again."""

    def __init__(
        self,
        edges: Edges,
        ours: Iterable[bytes] = (),
        node_of: Mapping[bytes, bytes] | None = None,
        owed: Mapping[bytes, int] | None = None,
    ) -> None:
        """edges: by keys. ours: our keys. node_of: the kin of a client's key. owed: what each owes
        us now."""
        self._ours, self._node_of = frozenset(ours), node_of or {}
        self._network: Network[bytes] = Network()
        self._lent: dict[bytes, int] = {}
        parties = set()
        for (worked, gained), ncr in edges.items():
            start, stop = self._party(worked), self._party(gained)
            if start not in (stop, US):  # nobody is worth more for what we did for it
                self._network.add(start, stop, ncr)
                parties |= {start, stop}
        self._parties = frozenset(parties)
        self._owed: dict[bytes, int] = {}
        for debtor, ncr in (owed or {}).items():
            party = self._party(debtor)
            if party in self._parties and party != US and ncr > 0:
                self._owed[party] = self._owed.get(party, 0) + ncr
                self._network.add(DEBTORS, party, ncr)
        self._network.push(DEBTORS, US, sum(self._owed.values()))

    def lends(self, key: bytes, most: int) -> int:
        """How much somebody may owe us by now, up to `most`; less, where only long ways lead to us
        through a large network."""
        party = self._party(key)
        if party not in self._parties:
            return 0
        if party not in self._lent:
            flows = self._owed.get(party, 0) - self._network.left(DEBTORS, party)
            self._lent[party] = flows + self._network.push(
                party, US, max(0, most - flows), looks=MAX_LOOKS
            )
        return min(most, self._lent[party])

    def _party(self, key: bytes) -> bytes:
        return US if key in self._ours else self._node_of.get(key, key)


def edges_of(tallies: Iterable[Tally], ours: Iterable[bytes]) -> dict[tuple[bytes, bytes], int]:
    """Of tallies that both signed, those between others; of those of one pair the highest.

    What was done for us we know ourselves, and somebody's word that we owe it is not asked for.
    """
    own, found = frozenset(ours), dict[tuple[bytes, bytes], int]()
    for tally in tallies:
        if own.isdisjoint((tally.payer, tally.payee)):
            pair = tally.payee, tally.payer
            found[pair] = max(tally.served, found.get(pair, 0))
    return found


def reaching(
    between: Edges,
    own: Edges,
    ours: Iterable[bytes],
    node_of: Mapping[bytes, bytes],
    most: int = MAX_EDGES,
) -> dict[tuple[bytes, bytes], int]:
    """Of edges between others so many, those first by which most can flow on to us.

    Whoever nobody that worked for us vouches for, however far, takes no place of those who did: its
    edges are made up as wide and as many as it likes.

    own: of who worked for us. node_of: the kin of a client's key.
    """
    mine = frozenset(ours)
    into: dict[bytes, list[tuple[bytes, tuple[bytes, bytes]]]] = {}
    for edge in between:
        worked, gained = (node_of.get(key, key) for key in edge)
        into.setdefault(gained, []).append((worked, edge))
    width: dict[bytes, int] = {}
    for (worked, gained), ncr in own.items():
        if gained in mine:
            party = node_of.get(worked, worked)
            width[party] = width.get(party, 0) + ncr
    ways = [
        (-min(ncr, between[edge]), edge, worked)
        for gained, ncr in width.items()
        for worked, edge in into.get(gained, ())
    ]
    heapify(ways)
    chosen: dict[tuple[bytes, bytes], int] = {}
    while ways and len(chosen) < most:
        less, edge, party = heappop(ways)
        chosen[edge] = between[edge]
        if party not in width:
            width[party] = -less
            for worked, further in into.get(party, ()):
                heappush(ways, (max(less, -between[further]), further, worked))
    return chosen


def weigh(
    between: Edges,
    own: Edges,
    ours: frozenset[bytes],
    node_of: Mapping[bytes, bytes],
    owed: Mapping[bytes, int],
) -> Trust:
    """What all this comes to; see `Trust` and `reaching`."""
    return Trust({**reaching(between, own, ours, node_of), **own}, ours, node_of, owed)
