"""A node whose blocks compute nothing, to measure what a hop costs besides: for benchmarks only.

In: `manyhands` commands, and in IDLE the path of a file. Out: the same node; from when the file is
there, rows leave each span as zeros, and every token is the same. Until then it computes as ever,
or it would not pass its own test at the start. All else stays: checks, caches' lengths, draws,
journals, meters, fingerprints, signatures, frames, TLS.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TOKEN = 65


def idle() -> None:
    import torch

    from node.engine import StepItem
    from node.engine.packed_engine import PackedEngine
    from node.engine.shard import StepResult

    flag, through = os.environ["IDLE"], PackedEngine._through
    made: dict[tuple[int, int], StepResult] = {}  # by rows and logits: to make them is computing
    is_idle = False

    def nothing(
        self: PackedEngine,
        items: Sequence[StepItem],
        so_far: Sequence[StepResult],
        first: int,
        last: int,
    ) -> list[StepResult]:
        nonlocal is_idle
        is_idle = is_idle or os.path.exists(flag)
        if not is_idle:
            return through(self, items, so_far, first, last)
        at_end = self.heads and last == self.n_blocks
        keys = [(item.rows.shape[0], item.n_logits if at_end else 0) for item in items]
        for rows, n_logits in keys:
            if (rows, n_logits) not in made:
                made[rows, n_logits] = result(self, rows, n_logits)
        return [made[key] for key in keys]

    def result(self: PackedEngine, rows: int, n_logits: int) -> StepResult:
        hidden = torch.zeros(rows, self.hidden_size, dtype=self.dtype)
        logits = torch.zeros(n_logits, self.vocab_size)
        logits[:, TOKEN] = 1.0
        return StepResult(hidden, logits if n_logits else None)

    PackedEngine._through = nothing  # type: ignore[method-assign]  # that is what it is for


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it when it is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from manyhands.cli import main

    idle()
    main()
