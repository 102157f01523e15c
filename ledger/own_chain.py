"""What an account's own spend log has come to, so that nothing is signed that would end it.

In: the leaves that are to be signed, and the earlier ones by their place. Out: whether all who read
them will go on reading. What is read here and then not signed leaves no trace.
"""

from collections.abc import Callable, Sequence
from threading import Lock

from ledger.chain import ChainReader, ChainState, LeafAt, Table
from ledger.errors import BadObject, DamagedLedger
from ledger.spend_leaf import NO_LEAF, SpendLeaf
from protocol.errors import IntegrityError


class OwnChain:
    """The state that the first `size` leaves of a log lead to, in memory."""

    def __init__(self, account: bytes, swarm_id: bytes) -> None:
        self._account, self._swarm_id = account, swarm_id
        self._state, self._size, self._previous = ChainState(), 0, NO_LEAF
        self._lock = Lock()

    def read(self, fresh: Sequence[SpendLeaf], earlier: LeafAt) -> Callable[[], None]:
        """Read these leaves after those before them. Once they are signed, call what comes back.

        Raises:
            IntegrityError: one of them breaks a rule, or one before them does.
        """
        with self._lock:
            self._catch_up(fresh[0].index, earlier)
            state = self._state
            tables = (state.places, state.asked, state.floors, state.noted, state.collected)
            layers = [_Layer(table) for table in tables]
            reader = ChainReader(self._account, self._swarm_id, ChainState(state.granted, *layers))
            made = {leaf.index: leaf for leaf in fresh}
            for leaf in fresh:
                reader.read(leaf, lambda index: made.get(index) or earlier(index))

        def accepted() -> None:
            with self._lock:
                if self._size == fresh[0].index:  # else another thread of ours read them already
                    self._size, self._previous = self._size + len(fresh), fresh[-1].hash()
                    state.granted = reader.state.granted
                    for layer in layers:
                        layer.settle()

        return accepted

    def asked(self, allot_oid: bytes, size: int, earlier: LeafAt) -> int:
        """What the first `size` leaves took in of an allotment."""
        with self._lock:
            self._catch_up(size, earlier)
            return self._state.asked.get(allot_oid) or 0

    def _catch_up(self, size: int, earlier: LeafAt) -> None:
        """Read what is in the log already, and what other processes appended."""
        reader = ChainReader(self._account, self._swarm_id, self._state)
        while self._size < size:
            leaf = earlier(self._size)
            try:
                if (leaf.index, leaf.previous) != (self._size, self._previous):
                    raise BadObject("it does not follow the one before")
                reader.read(leaf, earlier)
            except DamagedLedger:
                raise
            except IntegrityError as error:
                raise BadObject(
                    f"entry {self._size} of this log breaks a rule: no later one counts ({error})",
                    hint="begin a new account with another --home",
                ) from error
            self._size, self._previous = self._size + 1, leaf.hash()


class _Layer:
    """What was set since, over a table that stays as it is."""

    def __init__(self, below: Table) -> None:
        self.below, self.own = below, dict[bytes, int]()

    def get(self, key: bytes, /) -> int | None:
        found = self.own.get(key)
        return self.below.get(key) if found is None else found

    def __setitem__(self, key: bytes, value: int, /) -> None:
        self.own[key] = value

    def settle(self) -> None:
        for key, value in self.own.items():
            self.below[key] = value
