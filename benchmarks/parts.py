"""What one decode step of sessions that run different parts of a span costs, beside steps in turn.

A random Llama of 12 blocks x 768 (fp32), one torch thread. Rounds in turn, in seconds of their own
thread; ratios are what counts. Run: python benchmarks/parts.py
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import LLAMA_12_768, machine, table
from tests.checkpoints import write_checkpoint

HISTORY, STEPS, ROUNDS = 64, 8, 5
CASES = {  # sessions, and the blocks that they run, in turn
    "8 sessions, all of it": (8, [(0, 12)]),
    "8 sessions, two parts that share half": (8, [(0, 9), (3, 12)]),
    "8 sessions, five parts": (8, [(0, 12), (0, 8), (4, 12), (3, 10), (6, 12)]),
    "16 sessions, five parts": (16, [(0, 12), (0, 8), (4, 12), (3, 10), (6, 12)]),
    "2 sessions, one block in common": (2, [(0, 7), (6, 12)]),
}


def main() -> None:
    import torch

    from node.engine import StepItem, load_shard

    torch.set_num_threads(1)
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory(prefix="manyhands-bench-") as name:
        directory = write_checkpoint(Path(name) / "model", **LLAMA_12_768)
        engine = load_shard(directory, None, dtype="float32")

    def rows(entry: int, count: int) -> torch.Tensor:
        ids = torch.arange(3, 3 + count)
        return ids if entry == 0 else torch.randn(count, engine.hidden_size)

    def step_ms(parts: Sequence[tuple[int, int]], *, shared: bool) -> float:
        """Of one row of each session."""
        leases = [engine.open(HISTORY + STEPS, entry=a, exit=b) for a, b in parts]
        for lease in leases:
            engine.step([StepItem(lease, 0, rows(lease.entry, HISTORY))])
        given = [rows(lease.entry, 1) for lease in leases]
        groups = (
            [leases]
            if shared
            else [
                [lease for lease, own in zip(leases, parts, strict=True) if own == part]
                for part in dict.fromkeys(parts)
            ]
        )
        began = time.thread_time()
        for position in range(HISTORY, HISTORY + STEPS):
            for group in groups:
                items = [
                    StepItem(lease, position, given[leases.index(lease)], 1) for lease in group
                ]
                engine.step(items)
        return (time.thread_time() - began) * 1000 / STEPS

    took: dict[tuple[str, bool], list[float]] = {}
    for _ in range(ROUNDS):
        for case, (n_sessions, parts) in CASES.items():
            of_all = [parts[i % len(parts)] for i in range(n_sessions)]
            for shared in (False, True):
                took.setdefault((case, shared), []).append(step_ms(of_all, shared=shared))
    print(f"{machine()}; {ROUNDS} rounds\n")
    told = []
    for case in CASES:
        apart, together = (statistics.median(took[case, shared]) for shared in (False, True))
        told.append([case, f"{apart:.1f}", f"{together:.1f}", f"{together / apart:.2f}"])
    table(["a row of each", "in turn, ms", "one step, ms", "of it"], told)


if __name__ == "__main__":
    main()
