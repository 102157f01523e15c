"""How much gossip this node and those it asks can take at a time: found out by silence.

In: calls that were answered, and calls that were given up. Out: how many exchanges may be under way
at once, and how much longer than usual to wait for an answer and before the next exchange.

Where everybody is short of time, a call that is given up and made again is work done twice, and a
connection that is closed for it and opened again is the work of several calls: a swarm that is
pushed once over what its machines can do would stay there, busy with beginnings that nobody lives
to see the end of. So silence halves what we ask for, and answers raise it again by a little
(additive increase, multiplicative decrease: Chiu and Jain, 1989; Jacobson, 1988).
"""

MOST = 6.0  # exchanges at once
PATIENT_BELOW = 3.0  # one silent peer says nothing about all: patience begins at the second
MAX_PATIENCE = PATIENT_BELOW


class Pressure:
    """See the module."""

    def __init__(self) -> None:
        self._window = MOST

    @property
    def n_at_once(self) -> int:
        """How many exchanges may be under way; at least one."""
        return int(self._window)

    @property
    def patience(self) -> float:
        """By how much to stretch waits: 1 while all is well."""
        return min(max(1.0, PATIENT_BELOW / self._window), MAX_PATIENCE)

    def answered(self) -> None:
        self._window = min(MOST, self._window + 1 / self._window)

    def silent(self) -> None:
        self._window = max(1.0, self._window / 2)
