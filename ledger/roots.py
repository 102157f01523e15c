"""The running root of the frames one hop sent or received: equal on both ends of a link.

A leaf is keyed by the session's salt, which is never logged, so that guessing a prompt does not
confirm it. Roots begin anew with each epoch (DESIGN 5a.18).
"""

import hmac
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise

from ledger.objects import Statement

EMPTY_ROOT = bytes(32)


class FrameRoot:
    """Feed it every step of one direction of one session, once, in order."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self.root = EMPTY_ROOT
        self.last_step = 0

    def add(self, step: int, rows: bytes | memoryview) -> None:
        """Take in the rows of a step, as the bytes that crossed the wire."""
        leaf = step.to_bytes(8, "big") + sha256(rows).digest()
        self.root = sha256(self.root + hmac.digest(self._salt, leaf, "sha256")).digest()
        self.last_step = step

    def restart(self) -> None:
        """Begin a new epoch."""
        self.root, self.last_step = EMPTY_ROOT, 0


def differing_links(statements: Sequence[Statement]) -> list[int]:
    """Which links of a chain, by the number of their sender, carried other bytes than were sent.

    statements: one per hop, in the order of the chain. Two that stop at different steps or epochs
    say nothing about the link between them. A difference accuses the two ends of a link, not one.
    """
    return [
        number
        for number, (sender, receiver) in enumerate(pairwise(statements))
        if (sender.epoch, sender.last_step) == (receiver.epoch, receiver.last_step)
        and sender.out_root != receiver.in_root
    ]
