"""How likely the model itself held a token, and which ones it held likelier.

In: the logits as they left the model. Out: natural logarithms of their softmax: of the token that
was drawn, and of the likeliest few. These are the model's own probabilities, before grammar, bias,
penalties, temperature and filters, as vLLM tells them by default and as perplexities and evaluation
harnesses need them: they compare between requests, whatever a request draws with, and a greedy
answer has the same ones as a wild one of the same tokens. What the draw then made of them any
client can work out from the request.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protocol.checks import require

MAX_TOP = 20
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


def logprobs_of(logits: npt.NDArray[np.float32], token_id: int, n_top: int) -> Logprobs:
    """Of this token and of the `n_top` likeliest; fewer where the vocabulary has fewer.

    Args:
        logits: [vocab_size], the best of them finite.
    """
    total = log_total(logits)
    ids = likeliest(logits, n_top)
    values = told(logits[[token_id, *ids]], total)
    return Logprobs(values[0], tuple(ids.tolist()), tuple(values[1:]))


def log_total(logits: npt.NDArray[np.float32]) -> float:
    """The logarithm of the softmax's denominator; summed in doubles, relative to the best."""
    best = logits.max()
    return float(best) + float(np.log(np.exp(logits - best).sum(dtype=np.float64)))


def told(logits: npt.NDArray[np.float32], total: float) -> list[float]:
    """As they travel: in single precision, never above 0, never below `FLOOR`."""
    values = np.clip(logits.astype(np.float64) - total, FLOOR, 0.0)
    rounded: list[float] = values.astype(np.float32).tolist()
    return rounded


def likeliest(logits: npt.NDArray[np.float32], n_top: int) -> npt.NDArray[np.int64]:
    """The ids of the greatest, in falling order; of equals, lower ids first."""
    if n_top <= 0:
        return np.empty(0, np.int64)
    candidates = np.arange(len(logits))
    if n_top < len(logits):
        candidates = np.flatnonzero(logits >= np.partition(logits, -n_top)[-n_top])
    order = np.argsort(-logits[candidates], kind="stable")[:n_top]
    chosen: npt.NDArray[np.int64] = candidates[order]
    return chosen
