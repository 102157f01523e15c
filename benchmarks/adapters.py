"""What adapters cost a decode step: none loaded, some loaded, one, four or sixteen in one batch.

A random Llama of 12 blocks x 768 (fp32), adapters of rank 16 on every linear module of the blocks,
one torch thread. The cases take turns, round by round, in seconds of their own thread; ratios to
the step without adapters are what counts. Run: python benchmarks/adapters.py
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import LLAMA_12_768, machine, table
from tests.adapters import write_adapter
from tests.checkpoints import write_checkpoint

PROMPT, STEPS, ROUNDS, RANK = 64, 24, 7, 16
CASES = {  # sessions, and how many adapters they share; None: nothing is loaded
    "1 session, none loaded": (1, None),
    "1 session, 16 loaded, without": (1, 0),
    "1 session, with one": (1, 1),
    "16 sessions, none loaded": (16, None),
    "16 sessions, 16 loaded, without": (16, 0),
    "16 sessions, all with one": (16, 1),
    "16 sessions with 4, in turn": (16, 4),
    "16 sessions with 16": (16, 16),
}


def main() -> None:
    import torch

    from node.engine import StepItem, load_shard

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="manyhands-bench-") as name:
        directory = write_checkpoint(Path(name) / "base", **LLAMA_12_768)
        adapter = write_adapter(
            Path(name) / "adapter", directory, rank=RANK, target_modules="all-linear"
        )
        plain = load_shard(directory, None, dtype="float32")
        engine = load_shard(directory, None, dtype="float32")
        names = [engine.adapters.load(adapter, f"a{number}") for number in range(16)]
    prompt = torch.arange(3, 3 + PROMPT)
    each_mb = engine.adapters.n_bytes / 16 / 2**20

    def step_ms(n_sessions: int, n_adapters: int | None) -> float:
        used = plain if n_adapters is None else engine
        wanted = [names[n % n_adapters] if n_adapters else "" for n in range(n_sessions)]
        leases = [used.open(PROMPT + STEPS, adapter=adapter) for adapter in wanted]
        for lease in leases:
            used.step([StepItem(lease, 0, prompt)])
        token = torch.tensor([7])
        began = time.thread_time()
        for position in range(PROMPT, PROMPT + STEPS):
            used.step([StepItem(lease, position, token, 1) for lease in leases])
        return (time.thread_time() - began) * 1000 / STEPS

    took: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(ROUNDS):
        for case, (n_sessions, n_adapters) in CASES.items():
            took[case].append(step_ms(n_sessions, n_adapters))
    medians = {case: statistics.median(values) for case, values in took.items()}
    print(
        f"{machine()}; rank {RANK} on all linear modules, {each_mb:.1f} MiB each, {ROUNDS} rounds"
    )
    rows = []
    for case, (n_sessions, _) in CASES.items():
        base = medians[f"{n_sessions} session{'s' if n_sessions > 1 else ''}, none loaded"]
        rows.append([case, f"{medians[case]:.1f}", f"{medians[case] / base:.2f}"])
    table(["step", "ms", "x none loaded"], rows)


if __name__ == "__main__":
    main()
