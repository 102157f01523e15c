"""How likely the model itself held a token, and which ones it held likelier.

In: the logits as they left the model. Out: natural logarithms of their softmax: of the token that
was drawn, and of the likeliest few. These are the model's own probabilities, before grammar, bias,
penalties, temperature and filters, as vLLM tells them by default and as perplexities and evaluation
harnesses need them: they compare between requests, whatever a request draws with, and a greedy
answer has the same ones as a wild one of the same tokens. What the draw then made of them any
client can work out from the request.
"""

from dataclasses import dataclass

from protocol.asking import MAX_TOP
from protocol.checks import require

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

    def to_json(self) -> dict[str, object]:
        top = [{"token_id": i, "logprob": v} for i, v in zip(self.ids, self.values, strict=True)]
        return {"logprob": self.drawn, "top": top}
