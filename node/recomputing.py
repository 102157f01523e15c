"""Rows and logits of ids that are known already, run again: an auditor's half of an audit.

In: an engine that holds blocks from 0 on, ids; or rows that a hop was sent. Out: the rows behind
the blocks that were asked for, and logits where the model ends. One prefill, in chunks, through
every border: which is why to check is much cheaper than to generate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from node.engine import ShardEngine, StepItem
from protocol.errors import UsageError
from protocol.sampling import Floats
from protocol.wire import Rows

CHUNK = 256  # rows at once


@dataclass(frozen=True, slots=True)
class Again:
    """rows: [ids, hidden_size], by the block that they come in front of. logits: [ids, vocab]."""

    rows: dict[int, Rows] = field(default_factory=dict)
    logits: Floats | None = None


class GivenUp(Exception):
    """Nobody waits for these rows any more."""


def nobody_gives_up() -> bool:
    return False


def run_again(
    engine: ShardEngine,
    ids: Sequence[int],
    borders: Sequence[int],
    *,
    chunk: int = CHUNK,
    is_given_up: Callable[[], bool] = nobody_gives_up,
) -> Again:
    """The rows that leave the blocks before each border. is_given_up: asked before each chunk.

    Raises:
        GivenUp: it is.
        UsageError: the engine does not have the blocks from 0 to the last border.
        ManyhandsError: what `ShardEngine.step` raises.
    """
    stops = sorted(set(borders))
    if engine.span.start or not stops or stops[-1] > engine.span.stop:
        raise UsageError(f"blocks {engine.span} cannot run up to {stops[-1:]} again")
    rows, logits = torch.tensor(ids), None
    told: dict[int, Rows] = {}
    for start, stop in zip([0, *stops], stops, strict=False):
        rows, logits = _through(engine, rows, start, stop, chunk, is_given_up)
        told[stop] = rows.float().cpu().numpy()
    return Again(told, logits)


def run_rows(
    engine: ShardEngine,
    rows: Rows,
    start: int,
    stop: int,
    *,
    chunk: int = CHUNK,
    is_given_up: Callable[[], bool] = nobody_gives_up,
) -> Rows:
    """What blocks `[start, stop)` make of hidden rows of a session, from position 0 on.

    Raises:
        GivenUp: as `run_again`.
        ManyhandsError: what `ShardEngine.step` raises.
    """
    given = torch.from_numpy(np.array(rows)).to(engine.dtype)
    made, _ = _through(engine, given, start, stop, chunk, is_given_up)
    found: Rows = made.float().cpu().numpy()
    return found


def _through(
    engine: ShardEngine,
    rows: Tensor,
    start: int,
    stop: int,
    chunk: int,
    is_given_up: Callable[[], bool],
) -> tuple[Tensor, Floats | None]:
    is_end = stop == engine.n_blocks
    lease, parts, ends = engine.open(len(rows), entry=start, exit=stop), [], []
    for at in range(0, len(rows), chunk):
        if is_given_up():
            raise GivenUp
        part = rows[at : at + chunk].to(engine.device)
        (result,) = engine.step([StepItem(lease, at, part, len(part) if is_end else 0)])
        parts.append(result.hidden)
        ends += [result.logits.float().cpu().numpy()] if result.logits is not None else []
    return torch.cat(parts), np.concatenate(ends) if ends else None
