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

    def nothing(
        self: PackedEngine,
        items: Sequence[StepItem],
        so_far: Sequence[StepResult],
        first: int,
        last: int,
    ) -> list[StepResult]:
        if not os.path.exists(flag):
            return through(self, items, so_far, first, last)
        results = []
        for item in items:
            logits = None
            if self.heads and last == self.n_blocks and item.n_logits:
                logits = torch.zeros(item.n_logits, self.vocab_size)
                logits[:, TOKEN] = 1.0
            hidden = torch.zeros(item.rows.shape[0], self.hidden_size, dtype=self.dtype)
            results.append(StepResult(hidden, logits))
        return results

    PackedEngine._through = nothing  # type: ignore[method-assign]  # that is what it is for


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it when it is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from manyhands.cli import main

    idle()
    main()
