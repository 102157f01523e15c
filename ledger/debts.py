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
        self._node_of: dict[bytes, bytes] = {}  # a client's key to its kin
        self._clients_of: dict[bytes, set[bytes]] = {}

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
        before = self._node_of.get(kin.client)
        if before is not None:
            self._clients_of[before].discard(kin.client)
        self._node_of[kin.client] = kin.node
        self._clients_of.setdefault(kin.node, set()).add(kin.client)

    @property
    def node_of(self) -> Mapping[bytes, bytes]:
        """The kin of clients' keys."""
        return self._node_of

    def owed(self) -> dict[bytes, int]:
        """By one key of each counterparty that owes us anything."""
        keys = {self._node_of.get(key, key) for key in (*self.of_node, *self.of_clients)}
        pairs = ((key, self.with_(key).owes) for key in keys)
        return {key: owes for key, owes in pairs if owes > 0}

    def edges(self) -> dict[tuple[bytes, bytes], int]:
        """What counterparties did for us or made good, as `trust.py` has it."""
        ours = min(self.ours)
        keys = {
            self._node_of.get(key, key) for key in (*self.of_node, *self.of_clients, *self._got)
        }
        pairs = ((key, self.with_(key).worth) for key in keys)
        return {(key, ours): worth for key, worth in pairs if worth > 0}

    def keys_of(self, key: bytes) -> frozenset[bytes]:
        """Of the counterparty that this key belongs to."""
        node = self._node_of.get(key, key)
        return frozenset({key, node} | self._clients_of.get(node, set()))

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
