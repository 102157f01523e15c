"""How many guesses a client pays for that it could not have made itself: as many as were earned.

What `lookup` guesses follows from the ids, so a client needs nobody's word for it. What a model at
the last hop guesses does not: so wrong guesses are paid for as far as right ones came, which a last
hop cannot make up. `FIRST` are there to begin with, each right one brings `PER_RIGHT`, and itself
back, and every `TOKENS_EACH` tokens one more may be tried. So all rows of an answer of n tokens are
at most 15 + (3 + 1/16) n. The last hop counts the same, and sends no more than it is paid for.
"""

FIRST, MOST = 15, 60  # guesses; the most that may be saved up
PER_RIGHT = 2
TOKENS_EACH = 16


class Allowance:
    """Of one epoch, behind its first token. Counts in sixteenths of a guess."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = FIRST * TOKENS_EACH

    @property
    def most(self) -> int:
        """That may be sent now."""
        return max(0, self._left // TOKENS_EACH)

    def sent(self, n_guesses: int) -> None:
        self._left -= n_guesses * TOKENS_EACH

    def came(self, n_tokens: int, n_right: int) -> None:
        """n_right: tokens whose row was there already, as it had been guessed."""
        earned = n_tokens + (1 + PER_RIGHT) * TOKENS_EACH * n_right
        self._left = min(self._left + earned, MOST * TOKENS_EACH)
