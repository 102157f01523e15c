"""Whether draws follow the distributions that they should, whatever these are, in one figure.

In: of each draw, each token's probability, and which one came. Out: Pearson's statistic, of a test
for uniformity. Where `F` sums the probabilities of the tokens before the one that came, in
some order, `F + v p` with `v` uniform is uniform itself, whatever the distribution was (the
randomised probability integral transform, Brockwell 2007). So draws behind thousands of different
texts go into one test, and none is too rare to count.

`N_BINS` bins of more than 300 each. A right sampler leaves `BOUNDS` once in 500,000 runs, and as
seeds are fixed a run that passed passes for ever. Below the lower one, draws are too regular to be
drawn by chance, as where one position's noise is another's.
"""

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from protocol.sampling import SamplingParams

N_BINS = 64
BOUNDS = (23.0, 131.7)  # chi-square, 63 degrees, p = 0.000001 on either side


def probabilities(
    logits: npt.NDArray[np.float32], params: SamplingParams, ids: list[int], n_prompt: int
) -> npt.NDArray[np.float64]:
    """Of each token behind `ids`, as the transformers library has them; other penalties as OpenAI.

    logits: [vocab_size], of the model.
    """
    known, scores = torch.tensor([ids]), torch.from_numpy(logits)[None].double()
    if params.repetition_penalty != 1:
        scores = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(known, scores)
    said = torch.bincount(known[0, n_prompt:], minlength=len(logits))
    scores = scores - params.frequency_penalty * said - params.presence_penalty * (said > 0)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(params.temperature)])
    if params.top_k:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        warpers.append(MinPLogitsWarper(params.min_p))
    kept: npt.NDArray[np.float64] = warpers(known, scores)[0].softmax(0).numpy()
    return kept


class Transform:
    """Of one distribution, likeliest tokens first."""

    def __init__(self, p: npt.NDArray[np.float64]) -> None:
        order = np.argsort(-p, kind="stable")
        self._p, self._before = p, np.empty_like(p)
        self._before[order] = np.cumsum(p[order]) - p[order]

    def of(self, token_id: int, v: float) -> float:
        """In [0, 1]; v: uniform there."""
        assert self._p[token_id] > 0, "a token came that could not"
        return float(self._before[token_id] + v * self._p[token_id])


def statistic(values: list[float]) -> float:
    """Pearson's, against uniform ones."""
    expected = len(values) / N_BINS
    assert expected > 300
    bins = np.minimum((np.array(values) * N_BINS).astype(int), N_BINS - 1)
    return float(((np.bincount(bins, minlength=N_BINS) - expected) ** 2).sum() / expected)


def is_uniform(values: list[float]) -> bool:
    low, high = BOUNDS
    return low < statistic(values) < high
