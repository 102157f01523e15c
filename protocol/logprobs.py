"""How likely the model itself held a token, and which ones it held likelier.

In: the logits as they left the model. Out: natural logarithms of their softmax: of the token that
was drawn, and of the likeliest few. These are the model's own probabilities, before grammar, bias,
penalties, temperature and filters, as vLLM tells them by default and as perplexities and evaluation
harnesses need them: they compare between requests, whatever a request draws with, and a greedy
answer has the same ones as a wild one of the same tokens. What the draw then made of them any
client can work out from the request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from protocol.asking import MAX_TOP
from protocol.checks import MAX_POSITIONS, require

FLOOR = -9999.0  # stands for minus infinity, which JSON cannot say


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Of one drawn token, `drawn`; `ids` are the likeliest ones, likeliest first, with `values`.

    Of equals the lower id comes first. The drawn token is among `ids` only if it is that likely.
    """

    drawn: float
    ids: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require(len(self.ids) == len(self.values) <= MAX_TOP, "log-probabilities do not fit")
        told = (self.drawn, *self.values)
        require(all(FLOOR <= value <= 0 for value in told), "a log-probability out of range")

    def top(self, n: int) -> "Logprobs":
        """The same with the `n` likeliest ids alone."""
        return Logprobs(self.drawn, self.ids[:n], self.values[:n])

    def to_json(self) -> dict[str, object]:
        top = [{"token_id": i, "logprob": v} for i, v in zip(self.ids, self.values, strict=True)]
        return {"logprob": self.drawn, "top": top}


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLogprobs:
    """Of a prompt's ids from position `start` on, each after those before it; a prompt is told in
    several of these. The first id of a prompt comes after nothing, and is in none.

    top_ids, top_logprobs: `n_top` for each of `logprobs`, one after the other.
    """

    epoch: int
    start: int
    n_top: int
    logprobs: tuple[float, ...]
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require(self.start >= 1 and self.stop <= MAX_POSITIONS, "a position out of range")
        require(0 <= self.n_top <= MAX_TOP, "log-probabilities do not fit")
        n_told = self.n_top * len(self.logprobs)
        require(len(self.top_ids) == len(self.top_logprobs) == n_told, "likeliest ids do not fit")
        told = (*self.logprobs, *self.top_logprobs)
        require(all(FLOOR <= value <= 0 for value in told), "a log-probability out of range")

    @property
    def stop(self) -> int:
        """Behind the last position that is told of."""
        return self.start + len(self.logprobs)

    @classmethod
    def of(cls, epoch: int, start: int, told: Sequence[Logprobs]) -> Self:
        """Of the ids from `start` on, at least one, each with as many likeliest ones."""
        return cls(
            epoch=epoch,
            start=start,
            n_top=len(told[0].ids),
            logprobs=tuple(each.drawn for each in told),
            top_ids=tuple(id for each in told for id in each.ids),
            top_logprobs=tuple(value for each in told for value in each.values),
        )

    def items(self) -> list[tuple[int, Logprobs]]:
        """(position, log-probabilities of the id there)."""
        n_top = self.n_top
        return [
            (
                self.start + at,
                Logprobs(
                    value,
                    self.top_ids[at * n_top : (at + 1) * n_top],
                    self.top_logprobs[at * n_top : (at + 1) * n_top],
                ),
            )
            for at, value in enumerate(self.logprobs)
        ]
