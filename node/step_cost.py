"""How long a step takes on this machine: a small model, fitted while the node works.

In: steps that ran, each its rows, how far back they attended, and microseconds. Out: what another
step would take. `step_us = base + row_us * rows + pair_us * pairs`, where a row at position p makes
p pairs; least squares on relative errors, recent steps first. Each kind of step (decodes alone, a
prompt beside decodes, prompts alone) is forgotten only by its own kind, so that an hour of decoding
does not make us forget what a prompt costs, nor one long prompt what a decode costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

FORGETTING = 0.9  # weight of a step after another one of its kind
PRIOR_WEIGHT = 0.05  # of what was measured before the node served anybody
OUTLIER = 4.0  # a step that took longer by more than this is another process's fault, mostly
TRUSTED = 8  # steps, before a measurement is doubted; and between two fits
PRIOR_ROWS = 64  # of the step in which `throughput.measure` timed prefill
N = 3  # coefficients: base, row, pair
UNIT = (1.0, 1e-2, 1e-5)  # of each feature, so that sums stay in one order of magnitude


@dataclass(frozen=True, slots=True)
class Shape:
    """What a step's time depends on. `pairs`: the sum over its rows of their positions."""

    rows: int = 0
    pairs: int = 0

    @classmethod
    def of(cls, *runs: tuple[int, int]) -> "Shape":
        """Of (position of the first row, rows) of each session."""
        pairs = sum(rows * start + rows * (rows - 1) // 2 for start, rows in runs)
        return cls(sum(rows for _, rows in runs), pairs)

    @property
    def features(self) -> tuple[float, float, float]:
        return UNIT[0], self.rows * UNIT[1], self.pairs * UNIT[2]


@dataclass(slots=True)
class _Sums:
    """Normal equations of one kind of step."""

    square: list[list[float]] = field(default_factory=lambda: [[0.0] * N for _ in range(N)])
    moment: list[float] = field(default_factory=lambda: [0.0] * N)

    def add(self, features: Sequence[float], spent_us: float, keep: float) -> None:
        scaled = [value / spent_us for value in features]  # relative errors: long steps weigh alike
        for i in range(N):
            self.moment[i] = self.moment[i] * keep + scaled[i]
            for j in range(N):
                self.square[i][j] = self.square[i][j] * keep + scaled[i] * scaled[j]


class StepCost:
    """`decode_us` and `prefill_us_per_row` as announced; 0 when nothing was measured."""

    def __init__(self, decode_us: float = 0, prefill_us_per_row: float = 0) -> None:
        self._sums: dict[str, _Sums] = {}
        self._coefficients: tuple[float, ...] = (0.0,) * N
        self._is_fitted = False
        self._prior = _Sums()
        self._n_seen = 0
        self._unseen: list[tuple[str, Shape, float]] = []  # steps that are not in the sums yet
        self.is_known = False  # whether it was ever told what many rows take
        if decode_us > 0 and prefill_us_per_row > 0:
            self.is_known = True
            prefill_us = max(decode_us, prefill_us_per_row * PRIOR_ROWS)
            self._prior.add(Shape(1).features, decode_us, 1.0)
            self._prior.add(Shape(PRIOR_ROWS).features, prefill_us, 1.0)

    def saw(self, kind: str, shape: Shape, spent_us: float) -> None:
        """A step ran. `kind` is any name that steps alike have in common.

        It is taken in with others, before the next fit: one after the other each costs three times
        as much, since what computes it has left the caches meanwhile.
        """
        self.is_known = self.is_known or shape.rows >= PRIOR_ROWS // 4
        self._is_fitted = False
        self._unseen.append((kind, shape, max(1.0, spent_us)))
        if len(self._unseen) >= TRUSTED:
            self._take_in()

    def _take_in(self) -> None:
        unseen, self._unseen = self._unseen, []
        for seen in unseen:
            self._add(*seen)

    def _add(self, kind: str, shape: Shape, spent_us: float) -> None:
        if self._n_seen >= TRUSTED:
            expected = self._of(self._coefficients, shape)  # a fit costs more than it tells here
            spent_us = min(max(spent_us, expected / OUTLIER), expected * OUTLIER)
        self._n_seen += 1
        if self._n_seen % TRUSTED == 0:
            self._coefficients = self._fit()
        self._sums.setdefault(kind, _Sums()).add(shape.features, spent_us, FORGETTING)

    def step_us(self, shape: Shape) -> float:
        """What a step of this shape would take."""
        return self._of(self._fitted(), shape)

    def row_us(self, position: int) -> float:
        """What one row more, at `position`, would add to a step."""
        _, row, pair = self._fitted()
        return max(1e-3, row * UNIT[1] + pair * UNIT[2] * position)

    def roughly_us(self, position: int) -> float:
        """The same by an earlier fit, for whoever cannot wait for one; 0: there was none yet."""
        base, row, pair = self._coefficients
        is_known = base or row or pair
        return max(1e-3, row * UNIT[1] + pair * UNIT[2] * position) if is_known else 0.0

    def roughly_base_us(self) -> float:
        """What a step takes besides its rows, by the same."""
        return self._coefficients[0]

    @staticmethod
    def _of(coefficients: Sequence[float], shape: Shape) -> float:
        return max(1.0, sum(map(float.__mul__, coefficients, shape.features)))

    def _fitted(self) -> tuple[float, ...]:
        if not self._is_fitted:
            self._take_in()
            self._coefficients, self._is_fitted = self._fit(), True
        return self._coefficients

    def _fit(self) -> tuple[float, ...]:
        square = [[PRIOR_WEIGHT * value for value in row] for row in self._prior.square]
        moment = [PRIOR_WEIGHT * value for value in self._prior.moment]
        for sums in self._sums.values():
            for i in range(N):
                moment[i] += sums.moment[i]
                for j in range(N):
                    square[i][j] += sums.square[i][j]
        best, best_gain = (0.0,) * N, -1.0
        # Nothing costs less than nothing: of the fits whose terms are all positive, the closest;
        # of equals the one that blames the rows, so that what is not known yet is tried with care.
        for n_terms in range(1, N + 1):
            for terms in combinations((1, 0, 2), n_terms):
                solved = _solve([[square[i][j] for j in terms] for i in terms], moment, terms)
                if solved is None or min(solved) < 0:
                    continue
                gain = sum(value * moment[i] for i, value in zip(terms, solved, strict=True))
                if gain > best_gain * (1 + 1e-9):
                    whole = [0.0] * N
                    for i, value in zip(terms, solved, strict=True):
                        whole[i] = value
                    best, best_gain = tuple(whole), gain
        return best


def _solve(
    square: list[list[float]], moment: Sequence[float], terms: Sequence[int]
) -> list[float] | None:
    """The normal equations of these terms alone; None when they do not tell them apart."""
    n = len(terms)
    rows = [[*square[i], moment[term]] for i, term in enumerate(terms)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda k: abs(rows[k][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        if abs(rows[i][i]) <= 1e-9 * max(abs(square[k][k]) for k in range(n)):
            return None
        for k in range(i + 1, n):
            factor = rows[k][i] / rows[i][i]
            rows[k] = [a - factor * b for a, b in zip(rows[k], rows[i], strict=True)]
    solved = [0.0] * n
    for i in reversed(range(n)):
        known = sum(rows[i][k] * solved[k] for k in range(i + 1, n))
        solved[i] = (rows[i][n] - known) / rows[i][i]
    return solved
