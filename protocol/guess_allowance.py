"""How many guesses a client pays for that it could not have made itself: as many as were earned.

What `lookup` guesses follows from the ids, so a client needs nobody's word for it. What a model at
the last hop guesses does not: so wrong guesses are paid for as far as right ones came. `FIRST` are
there to begin with, each right one brings `PER_RIGHT`, and itself back, and every `TOKENS_EACH`
tokens one more may be tried. A chain that changed begins with `AGAIN`, or a last hop would change
it for new ones. The last hop counts the same, and sends no more than it is paid for.

That a guess was right is the last hop's word, too: a dishonest one, which sends none, tells some
and calls the tokens behind them right. So what holds against anybody is the bound alone: with these
guesses, rows of an answer of n tokens are at most 15 + (3 + 1/16) n. What `lookup` could have
guessed comes on top of it where it may guess, too.
"""

FIRST, MOST = 15, 60  # guesses; the most that may be saved up
AGAIN = 1  # in each later epoch: it takes two tokens to use it up
PER_RIGHT = 2
TOKENS_EACH = 16


class Allowance:
    """Of one epoch, behind its first token. Counts in sixteenths of a guess."""

    __slots__ = ("_left",)

    def __init__(self, *, is_first: bool = True) -> None:
        """is_first: no token came in an epoch before."""
        self._left = (FIRST if is_first else AGAIN) * TOKENS_EACH

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
