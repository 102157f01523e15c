"""From logits to log-probabilities; `logprobs.py` says what they mean and how they travel."""

import numpy as np
import numpy.typing as npt

from protocol.logprobs import FLOOR, Logprobs


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
