"""Drawing a token: a pure function of the logits, the request and the position (DESIGN 5a.6).

In: one row of logits, what was asked, the ids so far. Out: a token id. The same inputs give the
same token on any machine, after any failover, for any auditor; no library's global state takes
part. What changes the logits does so in this order:

    1  the grammar       what it does not allow next is impossible
    2  min_tokens        before these, so are the ids that end it, unless nothing else is left
    3  logit bias        is added
    4  repetition penalty, then frequency and presence penalty
    5  temperature
    6  top-k, top-p, min-p, as in the transformers library

What is left is drawn by Gumbel-max. Log-probabilities are of the logits before all of it
(`protocol.logprobs`).

The noise, so that another language can make it:

    x[b] = Philox4x64-10(key = (seed, 0), counter = (b + 1, position, choice, 0)), four words
           each (Salmon et al. 2011; the known answers of Random123 hold)
    u    = ((x[t // 4][t % 4] >> 12) + 0.5) / 2^52, for token id t: in (0, 1), exact in a double
    the token is the t with the greatest logit[t] - log(-log(u)), in doubles; the least t of equals

`position` is the index the drawn token gets in the sequence; `choice` numbers the answers to one
request, all else equal. The draws of a position are shared by whoever drafts it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Self

import numpy as np
import numpy.typing as npt

from protocol.asking import MAX_BIASES, Sampling
from protocol.errors import IntegrityError, UsageError

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
BIAS = np.dtype([("id", "<u4"), ("value", "<f4")])

FEW = 1024  # top-p usually keeps fewer tokens than this; sorting these alone saves milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """What the caller asked for. A temperature of 0 takes the best token and draws nothing.

    Repetition penalty weighs against every id so far, frequency and presence penalty against
    generated ones alone. `top_k` 0, `top_p` 1 and `min_p` 0 filter nothing. `logit_bias` is added
    to the logits of single ids. `choice` numbers the answers to one request, all else equal: they
    differ where anything is drawn.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    min_p: float = 0.0
    choice: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _require(0 <= self.temperature <= 100, "temperature lies in [0, 100]", self.temperature)
        _require(0 <= self.top_k < 2**31, "top_k is 0 (off) or positive", self.top_k)
        _require(0 < self.top_p <= 1, "top_p lies in (0, 1]", self.top_p)
        _require(
            0.01 <= self.repetition_penalty <= 100,
            "repetition_penalty lies in [0.01, 100]",
            self.repetition_penalty,
        )
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _require(-100 <= value <= 100, f"{name} lies in [-100, 100]", value)
        _require(0 <= self.seed < 2**64, "seed is an unsigned 64-bit integer", self.seed)
        _require(0 <= self.min_p <= 1, "min_p lies in [0, 1]", self.min_p)
        _require(0 <= self.choice < 2**32, "choice is 0 or positive", self.choice)
        n_biases = len(self.logit_bias)
        _require(n_biases <= MAX_BIASES, f"logit_bias has at most {MAX_BIASES} ids", n_biases)
        for token_id, bias in self.logit_bias.items():
            _require(0 <= token_id < 2**31, "logit_bias names token ids", token_id)
            _require(-100 <= bias <= 100, "a logit bias lies in [-100, 100]", bias)

    @classmethod
    def of(cls, message: Sampling, logit_bias: bytes = b"") -> Self:
        """From the wire.

        Raises:
            UsageError: a field is out of range.
        """
        told = np.frombuffer(logit_bias, BIAS)
        bias = dict(zip(told["id"].tolist(), told["value"].tolist(), strict=True))
        return cls(**{name: getattr(message, name) for name in _PLAIN}, logit_bias=bias)

    def message(self) -> Sampling:
        return Sampling(**{name: getattr(self, name) for name in _PLAIN})

    def packed_bias(self) -> bytes:
        """`logit_bias` as it travels: in rising order of ids."""
        return np.array(sorted(self.logit_bias.items()), BIAS).tobytes()

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    @property
    def has_penalties(self) -> bool:
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )


_PLAIN = tuple(each.name for each in fields(Sampling))


def _require(holds: bool, rule: str, value: object) -> None:
    if not holds:
        raise UsageError(f"{rule}, got {value}")


def sample(
    logits: Floats,
    params: SamplingParams,
    ids: Sequence[int],
    *,
    n_prompt: int,
    position: int,
    bars: Floats | None = None,
    avoided: Sequence[int] = (),
) -> int:
    """The next token.

    Args:
        logits: [vocab_size], left as they are.
        ids: prompt and generated ids so far; read only where a penalty asks for it.
        n_prompt: how many of `ids` are the prompt.
        position: the drawn token's index in the sequence.
        bars: [vocab_size], 0 for what a grammar leaves, at least one; else minus infinity.
        avoided: ids that are drawn only where nothing else is allowed.

    Raises:
        IntegrityError: the logits are not numbers.
    """
    best = int(logits.argmax())  # a NaN counts as greatest, so looking at one entry is enough
    if not isfinite(logits[best]):
        raise IntegrityError("the model's logits are not finite numbers")
    if bars is not None or avoided:
        logits = possible(logits, bars, avoided)
    if params.logit_bias:
        logits = biased(logits, params.logit_bias)
    if params.has_penalties:
        logits = penalised(logits, params, ids, n_prompt)
    best = int(logits.argmax())
    if params.is_greedy or params.top_k == 1:
        return best
    logits = tempered(logits, params.temperature)
    kept = kept_tokens(logits, params)
    noise = gumbel_noise(kept, len(logits), params.seed, position, params.choice)
    return int(kept[(logits[kept] + noise).argmax()])


def possible(logits: Floats, bars: Floats | None, avoided: Sequence[int]) -> Floats:
    """A copy in which the others are impossible.

    What a grammar asks for and the model holds impossible is as likely as the rest of that.
    """
    left = logits
    if bars is not None:
        left = logits + bars  # copying some of 128,000 takes up to 0.6 ms, adding to all 0.03
        if not isfinite(left[left.argmax()]):  # quicker than max
            left = bars
    if not avoided:
        return left
    without = left.copy()
    without[[token_id for token_id in avoided if token_id < len(logits)]] = -np.inf
    return without if isfinite(without.max()) else left


def biased(logits: Floats, bias: Mapping[int, float]) -> Floats:
    """A copy with these added; of an id that the model has not, nothing."""
    logits = logits.copy()
    for token_id, value in bias.items():
        if token_id < len(logits):
            logits[token_id] += np.float32(value)
    return logits


def tempered(logits: Floats, temperature: float) -> Floats:
    """Divided by the temperature; below the best only, where the best would overflow."""
    best = logits.argmax()
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # -inf is never drawn
        divided: Floats = logits / np.float32(temperature)
        if np.isfinite(divided[best]):
            return divided
        below = (logits - np.float64(logits[best])) / np.float64(temperature)
        return below.astype(np.float32)


def penalised(logits: Floats, params: SamplingParams, ids: Sequence[int], n_prompt: int) -> Floats:
    """A copy of the logits with what was said already made less likely."""
    logits = logits.copy()
    seen = np.asarray(ids, dtype=np.int64)
    if params.repetition_penalty != 1 and len(seen):
        distinct = np.unique(seen)
        penalty = np.float32(params.repetition_penalty)
        values = logits[distinct]
        logits[distinct] = np.where(values < 0, values * penalty, values / penalty)
    if len(seen) > n_prompt and (params.presence_penalty or params.frequency_penalty):
        distinct, counts = np.unique(seen[n_prompt:], return_counts=True)
        weights = params.frequency_penalty * counts + params.presence_penalty
        logits[distinct] -= weights.astype(np.float32)
    return logits


def kept_tokens(logits: Floats, params: SamplingParams) -> Ids:
    """Which ids top-k, top-p and min-p leave, in rising order.

    Top-k keeps all that equal the k-th best. Top-p keeps the fewest best tokens whose
    probabilities sum to at least p; of equals, lower ids come first. Min-p keeps those at least
    `min_p` times as likely as the best one (Nguyen et al. 2024).
    """
    kept = np.arange(len(logits))
    if 0 < params.top_k < len(logits):
        kept = np.flatnonzero(logits >= np.partition(logits, -params.top_k)[-params.top_k])
    if params.top_p < 1:
        kept = kept[np.sort(_nucleus(logits[kept], params.top_p))]
    if params.min_p > 0:
        kept = kept[logits[kept] >= logits.max() + np.log(params.min_p)]
    return kept


def _nucleus(logits: Floats, top_p: float) -> Ids:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    target = top_p * weights.sum()
    candidates = np.arange(len(logits))
    if len(logits) > FEW:
        top = np.flatnonzero(logits >= np.partition(logits, -FEW)[-FEW])
        if weights[top].sum() > target:
            candidates = top
    order = candidates[np.argsort(-logits[candidates], kind="stable")]
    above = np.cumsum(weights[order]) - weights[order]  # how much is likelier than each
    return order[: max(1, int(np.searchsorted(above, target)))]


def gumbel_noise(
    ids: Ids, vocab_size: int, seed: int, position: int, choice: int
) -> npt.NDArray[np.float64]:
    """The noise of these token ids at one position, as the module's docstring defines it."""
    # numpy steps the counter before it makes a block, hence the + 1 in the definition.
    counter = np.array([0, position, choice, 0], dtype=np.uint64)
    generator = np.random.Philox(key=np.array([seed, 0], dtype=np.uint64), counter=counter)
    words = generator.random_raw(vocab_size)[ids]
    uniform = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    noise: npt.NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise
