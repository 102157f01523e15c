"""Drawing a token: a pure function of the logits, the request and the position (DESIGN 5a.6).

In: one row of logits, what was asked, the ids so far. Out: a token id. The same inputs give the
same token on any machine, after any failover, for any auditor; no library's global state takes
part. Filters run in the order of the transformers library: repetition penalty, frequency and
presence penalty, temperature, top-k, top-p. What is left is drawn by Gumbel-max.

The noise, so that another language can make it:

    x[b] = Philox4x64-10(key = (seed, 0), counter = (b + 1, position, choice, 0)), four words
           each (Salmon et al. 2011; the known answers of Random123 hold)
    u    = ((x[t // 4][t % 4] >> 12) + 0.5) / 2^52, for token id t: in (0, 1), exact in a double
    the token is the t with the greatest logit[t] - log(-log(u)), in doubles; the least t of equals

`position` is the index the drawn token gets in the sequence; `choice` numbers the answers to one
request, all else equal. The draws of a position are shared by whoever drafts it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from protocol.asking import Sampling
from protocol.errors import IntegrityError, UsageError

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

FEW = 1024  # top-p usually keeps fewer tokens than this; sorting these alone saves milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """What the caller asked for. A temperature of 0 takes the best token and draws nothing.

    Repetition penalty weighs against every id so far, frequency and presence penalty against
    generated ones alone. `top_k` 0 and `top_p` 1 filter nothing.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0

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

    @classmethod
    def of(cls, message: Sampling) -> Self:
        """From the wire.

        Raises:
            UsageError: a field is out of range.
        """
        return cls(**asdict(message))

    def message(self) -> Sampling:
        return Sampling(**asdict(self))

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
    choice: int = 0,
) -> int:
    """The next token.

    Args:
        logits: [vocab_size], left as they are.
        ids: prompt and generated ids so far; read only where a penalty asks for it.
        n_prompt: how many of `ids` are the prompt.
        position: the drawn token's index in the sequence.

    Raises:
        IntegrityError: the logits are not numbers.
    """
    best = int(logits.argmax())  # a NaN counts as greatest, so looking at one entry is enough
    if not np.isfinite(logits[best]):
        raise IntegrityError("the model's logits are not finite numbers")
    if params.has_penalties:
        logits = penalised(logits, params, ids, n_prompt)
        best = int(logits.argmax())
    if params.is_greedy or params.top_k == 1:
        return best
    logits = tempered(logits, params.temperature)
    kept = kept_tokens(logits, params)
    noise = gumbel_noise(kept, len(logits), params.seed, position, choice)
    return int(kept[(logits[kept] + noise).argmax()])


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
    """Which ids top-k and top-p leave, in rising order.

    Top-k keeps all that equal the k-th best. Top-p keeps the fewest best tokens whose
    probabilities sum to at least p; of equals, lower ids come first.
    """
    kept = np.arange(len(logits))
    if 0 < params.top_k < len(logits):
        kept = np.flatnonzero(logits >= np.partition(logits, -params.top_k)[-params.top_k])
    if params.top_p < 1:
        kept = kept[np.sort(_nucleus(logits[kept], params.top_p))]
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
