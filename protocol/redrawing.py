"""Whether a last hop drew what sampling gives: its draws again, from logits run again.

In: logits of an honest run, the request's sampling, the id that was claimed. Out: by how much the
claim falls short of the best. Draws are a pure function of (request, position, logits), so an
honest claim is the best id exactly, but where two were so near each other that rounding decides.
What lies within the profile's `drawn` is such a tie. It is measured in logits of the tempered row
plus noise, where the draw is an argmax.

A grammar's bars are the auditor's to give: without them a draw under a grammar cannot be judged.
"""

from collections.abc import Sequence
from math import inf

import numpy as np

from protocol.sampling import (
    Floats,
    SamplingParams,
    biased,
    gumbel_noise,
    kept_tokens,
    penalised,
    possible,
    sample,
    tempered,
)


def shortfall(
    logits: Floats,
    params: SamplingParams,
    ids: Sequence[int],
    claimed: int,
    *,
    n_prompt: int,
    bars: Floats | None = None,
    avoided: Sequence[int] = (),
) -> float:
    """By how much the id claimed for position `len(ids)` falls short of the one drawn here.

    0: it is that one. Infinite: no such id, or one that the request rules out. One that top-k,
    top-p or min-p cut off falls short by how far its logit lies below the least that they kept.
    """
    position = len(ids)
    drawn = sample(
        logits, params, ids, n_prompt=n_prompt, position=position, bars=bars, avoided=avoided
    )
    if claimed == drawn:
        return 0.0
    if not 0 <= claimed < len(logits):
        return inf
    if bars is not None or avoided:
        logits = possible(logits, bars, avoided)
    if params.logit_bias:
        logits = biased(logits, params.logit_bias)
    if params.has_penalties:
        logits = penalised(logits, params, ids, n_prompt)
    if params.is_greedy or params.top_k == 1:
        return _below(float(logits[drawn]), float(logits[claimed]))
    logits = tempered(logits, params.temperature)
    kept = kept_tokens(logits, params)
    cut = _below(float(logits[kept].min()), float(logits[claimed]))
    both = np.array([drawn, claimed])
    noise = gumbel_noise(both, len(logits), params.seed, position, params.choice)
    ours, theirs = (float(value) for value in logits[both] + noise)
    # Where the claim would have won, had it been kept, how far it was from being kept is all.
    return max(0.0, cut, _below(ours, theirs)) if np.isfinite(theirs) else inf


def _below(best: float, value: float) -> float:
    return best - value if np.isfinite(value) else inf
