"""How likely ids were, by many rows of logits at once, where these are: what
`protocol.likelihoods.logprobs_of` finds of each row alone, sooner.

In: logits as a step gave them, on its device. Out: `Logprobs` of each row. An accelerator sums in
single precision, within 1e-5 of the doubles of a CPU.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from protocol.likelihoods import likeliest, log_total, told
from protocol.logprobs import Logprobs

if TYPE_CHECKING:
    from torch import Tensor

AT_ONCE = 8  # rows, of which a copy is made: a vocabulary can have 600 kB of logits


def odds_of(logits: "Tensor", ids: Sequence[int], n_top: int) -> list[Logprobs]:
    """Of `ids[i]` by row i, and of the `n_top` likeliest there; fewer where there are fewer.

    Args:
        logits: [rows, vocab_size], the best of each finite; at least as many rows as ids.
    """
    found: list[Logprobs] = []
    for at in range(0, len(ids), AT_ONCE):
        some = ids[at : at + AT_ONCE]
        found += _odds_of(logits[at : at + len(some)], some, n_top)
    return found


def _odds_of(logits: "Tensor", ids: Sequence[int], n_top: int) -> list[Logprobs]:
    import torch

    totals: list[float]
    if logits.device.type == "cpu":  # there numpy sums in less time than torch
        totals = [log_total(row) for row in logits.numpy()]
    else:
        totals = logits.logsumexp(dim=-1).tolist()
    tops = _likeliest(logits, n_top)
    wanted = np.concatenate([np.asarray(ids, np.int64)[:, None], tops], axis=1)
    chosen = logits.gather(1, torch.from_numpy(wanted).to(logits.device)).cpu().numpy()
    odds = []
    for values, total, top in zip(chosen, totals, tops, strict=True):
        drawn, *rest = told(values, total)
        odds.append(Logprobs(drawn, tuple(top.tolist()), tuple(rest)))
    return odds


def _likeliest(logits: "Tensor", n_top: int) -> npt.NDArray[np.int64]:
    """[rows, n_top]: in falling order; of equals, lower ids first."""
    n_ids = logits.shape[1]
    n_top = min(max(0, n_top), n_ids)
    if not n_top:
        return np.empty((len(logits), 0), np.int64)
    best = logits.topk(min(n_top + 1, n_ids))
    values, ids = best.values.cpu().numpy(), best.indices.cpu().numpy()
    order = np.lexsort((ids[:, :n_top], -values[:, :n_top]))
    tops: npt.NDArray[np.int64] = np.take_along_axis(ids, order, axis=1)
    if n_top < n_ids:  # of equals at the edge, topk takes any
        for row in np.flatnonzero(values[:, n_top - 1] == values[:, n_top]):
            tops[row] = likeliest(logits[row].cpu().numpy(), n_top)
    return tops
