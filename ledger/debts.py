"""What a pair owes each other over all their sessions, where nobody grants anybody credit.

In: what the logs of a home come to per counterparty, what tallies say was settled, which keys are
kin, and tabs as they end. Out: how much a counterparty owes, and how much it has done or made good
so far. Nothing here is kept: all of it is read again from logs and tallies at each start
(`LedgerReader.sums`), and what ends afterwards is added. Pure. Amounts are ncr.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ledger.tally import Kin, Tally


class Passed(NamedTuple):
    """Between us and one key."""

    earned: int = 0  # what we did for it
    spent: int = 0  # what it did for us


NOTHING = Passed()
Sums = Mapping[bytes, Passed]  # by the counterparty's key


@dataclass(frozen=True, slots=True)
class Pair:
    """Between us and one counterparty, all its keys together."""

    earned: int
    spent: int
    got: int  # what it made good to us otherwise
    gave: int  # what we made good to it otherwise

    @property
    def owes(self) -> int:
        """The counterparty to us; below zero: we to it."""
        return self.earned - self.got - self.spent + self.gave

    @property
    def worth(self) -> int:
        """What it did for us or made good so far: a reason to lend it as much again."""
        return self.spent + self.got


class Debts:
    """Of one home: its node and the clients that share it.

    `of_node` grows as tabs end; `of_clients` is what their log came to when it was read last.
    """

    def __init__(self, ours: Iterable[bytes], of_node: Sums) -> None:
        """ours: the keys of our home."""
        self.ours = frozenset(ours)
        self.of_node = dict(of_node)
        self.of_clients: Sums = {}
        self._got: dict[bytes, dict[bytes, int]] = {}  # by counterparty, then by our key
        self._gave: dict[bytes, dict[bytes, int]] = {}
        self._node_of: dict[bytes, bytes] = {}  # a client's key to its kin, as papers say
        self._kin: tuple[dict[bytes, bytes], dict[bytes, set[bytes]]] | None = None

    def earn(self, client: bytes, ncr: int) -> None:
        """A tab ended, in which we did so much for it."""
        before = self.of_node.get(client, NOTHING)
        self.of_node[client] = before._replace(earned=before.earned + ncr)

    def take(self, tally: Tally) -> None:
        """One that its payee signed. Tallies of others say nothing here: see `trust.py`."""
        for ours, theirs, book in (
            (tally.payee, tally.payer, self._got),
            (tally.payer, tally.payee, self._gave),
        ):
            if ours in self.ours and theirs not in self.ours:
                known = book.setdefault(theirs, {})
                known[ours] = max(tally.settled, known.get(ours, 0))

    def introduce(self, kin: Kin) -> None:
        """That two keys, who both signed it, are one counterparty. A client has one node."""
        if self._node_of.get(kin.client) != kin.node:
            self._node_of[kin.client] = kin.node
            self._kin = None

    @property
    def node_of(self) -> Mapping[bytes, bytes]:
        """Of clients' keys, the one that stands for their counterparty."""
        return self._grouped()[0]

    def owed(self) -> dict[bytes, int]:
        """By one key of each counterparty that owes us anything."""
        keys = {self.node_of.get(key, key) for key in (*self.of_node, *self.of_clients)}
        pairs = ((key, self.with_(key).owes) for key in keys)
        return {key: owes for key, owes in pairs if owes > 0}

    def edges(self) -> dict[tuple[bytes, bytes], int]:
        """What counterparties did for us or made good, as `trust.py` has it."""
        ours = min(self.ours)
        keys = {self.node_of.get(key, key) for key in (*self.of_node, *self.of_clients, *self._got)}
        pairs = ((key, self.with_(key).worth) for key in keys)
        return {(key, ours): worth for key, worth in pairs if worth > 0}

    def keys_of(self, key: bytes) -> frozenset[bytes]:
        """Of the counterparty that this key belongs to."""
        first_of, keys_of = self._grouped()
        first = first_of.get(key, key)
        return frozenset({key, first} | keys_of.get(first, set()))

    def with_(self, key: bytes) -> Pair:
        """What passed between us and the counterparty that has this key."""
        keys = self.keys_of(key)
        passed = [
            sums.get(each, NOTHING) for each in keys for sums in (self.of_node, self.of_clients)
        ]
        return Pair(
            earned=sum(each.earned for each in passed),
            spent=sum(each.spent for each in passed),
            got=sum(sum(self._got.get(each, {}).values()) for each in keys),
            gave=sum(sum(self._gave.get(each, {}).values()) for each in keys),
        )

    def _grouped(self) -> tuple[dict[bytes, bytes], dict[bytes, set[bytes]]]:
        """The first key of each client's counterparty, and all clients' keys of each first one.

        Kin of kin are one counterparty: else what one key did would count for each of its kin.
        """
        if self._kin is None:
            first_of: dict[bytes, bytes] = {}
            for key in self._node_of:
                path: dict[bytes, None] = {}
                while key not in first_of and key not in path and key in self._node_of:
                    path[key] = None
                    key = self._node_of[key]
                if key in path:  # they name each other in a ring
                    ring = list(path)
                    key = min(ring[ring.index(key) :])
                first_of |= dict.fromkeys(path, first_of.get(key, key))
            keys_of: dict[bytes, set[bytes]] = {}
            for key, first in first_of.items():
                keys_of.setdefault(first, set()).add(key)
            self._kin = first_of, keys_of
        return self._kin
