"""The running root of the frames one hop sent or received: equal on both ends of a link.

A leaf is keyed by the session's salt, which is never logged, so that guessing a prompt does not
confirm it. Roots begin anew with each epoch (DESIGN 5a.18).
"""

import hmac
from hashlib import sha256

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
