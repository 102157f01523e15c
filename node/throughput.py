"""How fast this node is, measured on the span it serves, so that announcements are honest."""

import statistics
import time

from node.engine import ShardEngine, StepItem
from protocol.errors import ManyhandsError

DECODE_STEPS, PREFILL_ROWS, CONTEXT_ROWS = 6, 64, 16


def measure(engine: ShardEngine) -> tuple[int, int]:
    """(microseconds of one decode step through the span, microseconds per prefill row).

    Runs on the caller's thread, before the batcher owns the engine; well under a second for any
    span that is worth serving.
    """
    import torch

    capacity = min(engine.max_positions, CONTEXT_ROWS + PREFILL_ROWS + DECODE_STEPS + 1)
    lease = engine.open(capacity)

    def rows(count: int) -> "torch.Tensor":
        if engine.embeds:
            return torch.zeros(count, dtype=torch.int64)
        hidden = torch.zeros(count, engine.hidden_size, dtype=engine.dtype)
        return hidden.to(engine.device)

    def step(count: int) -> float:
        began = time.perf_counter()
        item = StepItem(lease, lease.length, rows(count), int(engine.heads))
        engine.step([item])[0].hidden.cpu()
        return time.perf_counter() - began

    try:
        step(1)  # the first step pays for lazy initialisation
        count = min(PREFILL_ROWS, capacity - DECODE_STEPS - 2)
        prefill_s = step(count) if count > 0 else 0.0
        decode_s = statistics.median(step(1) for _ in range(DECODE_STEPS))
    except ManyhandsError:
        return 0, 0
    return max(1, round(decode_s * 1e6)), max(1, round(prefill_s / max(1, count) * 1e6))
