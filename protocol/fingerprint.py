"""Fingerprints of hidden rows: what a hop commits to, and what an auditor compares with its own.

In: a window's rows as they travelled, decoded (`wire.decode`). Out: a few numbers per row, and how
far two parties' rows are apart by them. Who commits to fingerprints is `ledger.fingerprints`, which
distances are honest is `fp_profile.py`, the draws of a last hop are `redrawing.py`.

A row's sketch is a count sketch (Charikar, Chen and Farach-Colton 2002): every value gets a sign,
values are summed up in `BUCKETS` runs of the row. It is linear, so the sketch of a difference is
the difference of the sketches, and the expected square of that is the square of the difference's
length: the error of each row is estimated without the row itself, wherever in the row it lies. The
largest values of a window (TOPLOC, Ong et al. 2025) tell about as much in the middle of a model
(`benchmarks/audit.py` has both), but have to be sorted, and where rows have a few huge values they
see nothing else.

Signs are public and always the same: who knows the sketch of the right row has run the model.
"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_256
from typing import Any

import numpy as np
import numpy.typing as npt

from protocol.windows import BUCKETS, Window
from protocol.wire import Rows

ALGORITHM = "sketch-8x32"
_SEED = b"manyhands-fingerprint-v1"

Sketches = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating[Any]]


def sketch(rows: Rows) -> Sketches:
    """Rows [n, hidden_size] to sketches [n, BUCKETS]; each row on its own."""
    n, hidden_size = rows.shape
    signs, starts = _signs(hidden_size)
    sums: Sketches = np.add.reduceat(rows * signs, starts, axis=1)
    if sums.shape != (n, BUCKETS):  # a model narrower than its sketch
        sums = np.pad(sums, ((0, 0), (0, BUCKETS - sums.shape[1])))
    return sums


@lru_cache(maxsize=8)
def _signs(hidden_size: int) -> tuple[Sketches, npt.NDArray[np.intp]]:
    """Signs of all places in a row, from SHAKE-256 of the seed and the width; where runs begin."""
    stream = shake_256(_SEED + hidden_size.to_bytes(4, "big")).digest(-(-hidden_size // 8))
    bits = np.unpackbits(np.frombuffer(stream, np.uint8))[:hidden_size]
    starts = np.unique([hidden_size * bucket // BUCKETS for bucket in range(BUCKETS)])
    return 1 - 2 * bits.astype(np.float32), starts.astype(np.intp)


@dataclass(frozen=True, slots=True)
class Distance:
    """How far claimed rows are from those run again, relative to each row's length.

    mean: root of the mean square over rows; median: of rows; worst: of one row. Infinite where what
    was claimed is no number.
    """

    rows: int
    mean: float
    median: float
    worst: float


def compare(claimed: Window, rows: Rows) -> Distance:
    """`rows`: those of `[claimed.start, claimed.stop)`, run again [n, hidden_size]."""
    if len(rows) != claimed.stop - claimed.start:
        raise ValueError(f"{len(rows)} rows beside a window of {claimed.start}:{claimed.stop}")
    sketches = np.frombuffer(claimed.sketches, "<f4").reshape(-1, BUCKETS)
    return _distance(sketches, sketch(rows), rows)


def compare_rows(claimed: Rows, rows: Rows) -> Distance:
    """The same of rows that are here themselves: no difference hides from this one."""
    if claimed.shape != rows.shape:
        raise ValueError(f"rows of {claimed.shape} beside rows of {rows.shape}")
    return _distance(claimed, rows, rows)


def _distance(claimed: Floats, right: Floats, rows: Floats) -> Distance:
    """Of what was claimed from what is right, each in parts of the length of its row."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    with np.errstate(all="ignore"):
        errors = np.linalg.norm(claimed.astype(np.float64) - right, axis=1)
        relative: npt.NDArray[Any] = errors / np.maximum(lengths, 1e-30)
    relative = np.where(np.isfinite(relative), relative, np.inf)
    return Distance(
        rows=len(rows),
        mean=float(np.sqrt(np.mean(np.square(relative)))),
        median=float(np.median(relative)),
        worst=float(relative.max()),
    )
