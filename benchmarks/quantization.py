"""What small weights cost and give: bytes, speed, time to make and to read them again.

A random Llama of hidden size 2048 (feed-forward 5632), stored in bfloat16, blocks 1:3 of 4, one
torch thread. All forms take turns in one process, timed in seconds of their own thread, so that a
busy machine slows all alike; the peak of memory is taken in a process per form. Goals: 4-bit takes
<= 0.3 x the bytes of bfloat16 and decodes >= 2 x as fast; a kept span is read >= 10 x faster than
it is made; loading peaks at <= 1.2 x the span's bytes in bfloat16.
Run: python benchmarks/quantization.py
"""

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from node.engine import ShardEngine

LLAMA = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 1024,
    "max_position_embeddings": 512,
}
FORMS = ("none", "int8", "4bit")
CONTEXT, PREFILL, STEPS, ROUNDS = 128, 32, 10, 7


def write_model(directory: Path) -> Path:
    from safetensors.torch import load_file, save_file

    from tests.checkpoints import write_checkpoint

    write_checkpoint(directory, "llama", **LLAMA)
    weights = directory / "model.safetensors"
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    return directory


def thread_seconds(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def load_seconds(directory: Path, form: str, cache: Path) -> float:
    """Without the self-test, which costs the same either way."""
    from node.engine.weights import Wanted, load_span
    from protocol.messages import Span

    wanted = Wanted(dtype="bfloat16", quantize=form, cache=cache)
    return thread_seconds(lambda: load_span(directory, Span(1, 3), wanted))


def speeds(engines: "dict[str, ShardEngine]") -> dict[str, tuple[float, float]]:
    """(ms of a decode step, ms of a prefill) of the span, by form; medians of turns."""
    import torch

    from node.engine import StepItem

    def rows(count: int) -> "torch.Tensor":
        chance = torch.Generator().manual_seed(count)
        return torch.randn(count, LLAMA["hidden_size"], generator=chance).bfloat16()

    decode: dict[str, list[float]] = {form: [] for form in engines}
    prefill: dict[str, list[float]] = {form: [] for form in engines}
    leases = {form: engine.open(CONTEXT + STEPS) for form, engine in engines.items()}
    for _ in range(ROUNDS):
        for form, engine in engines.items():
            lease = leases[form]
            engine.step([StepItem(lease, 0, rows(CONTEXT))])
            for step in range(STEPS):
                item = StepItem(lease, CONTEXT + step, rows(1))
                decode[form].append(1000 * thread_seconds(lambda i=item, e=engine: e.step([i])))
            item = StepItem(lease, CONTEXT - PREFILL, rows(PREFILL))
            prefill[form].append(1000 * thread_seconds(lambda i=item, e=engine: e.step([i])))
    return {
        form: (statistics.median(decode[form]), statistics.median(prefill[form]))
        for form in engines
    }


def peak(directory: Path, form: str) -> None:
    """In a process of its own: print the most that loading added to resident memory, in bytes."""
    import torch

    from node.engine import load_shard
    from protocol.messages import Span
    from tests.checkpoints import write_checkpoint

    torch.set_num_threads(1)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    with tempfile.TemporaryDirectory() as name:
        load_shard(write_checkpoint(Path(name)), Span(1, 2), quantize=form)  # imports, first use
    before = most = resident()
    over = threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.001):
            most = max(most, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    load_shard(directory, Span(1, 3), dtype="bfloat16", quantize=form)
    over.set()
    watcher.join()
    print(most - before)


def main() -> None:
    import common
    import torch

    from node.engine import load_shard
    from protocol.messages import Span

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="manyhands-bench-") as name:
        directory = write_model(Path(name) / "model")
        peaks = {
            form: int(
                subprocess.run(
                    [sys.executable, __file__, str(directory), form],
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
            )
            for form in FORMS
        }
        load_seconds(directory, "4bit", Path(name) / "warm")
        loads = {}
        for form in ("int8", "4bit"):
            made, kept = [], []
            for turn in range(3):
                cache = Path(name) / f"cache-{form}-{turn}"
                made.append(load_seconds(directory, form, cache))
                kept.append(load_seconds(directory, form, cache))
            loads[form] = statistics.median(made), statistics.median(kept)
        engines = {
            form: load_shard(directory, Span(1, 3), dtype="bfloat16", quantize=form)
            for form in FORMS
        }
        timed = speeds(engines)
    plain = engines["none"].weights_bytes
    print(f"\n{common.machine()}\n")
    rows = []
    for form, engine in engines.items():
        decode_ms, prefill_ms = timed[form]
        made_s, kept_s = loads.get(form, (0.0, 0.0))
        rows.append(
            [
                str(engine.profile),
                f"{engine.weights_bytes / 2**20:.0f} ({engine.weights_bytes / plain:.3f} x)",
                f"{decode_ms:.2f} ({timed['none'][0] / decode_ms:.2f} x)",
                f"{prefill_ms:.1f} ({timed['none'][1] / prefill_ms:.2f} x)",
                f"{made_s:.2f}" if made_s else "",
                f"{kept_s:.2f} ({made_s / kept_s:.0f} x)" if kept_s else "",
                f"{peaks[form] / plain:.2f} x",
            ]
        )
    common.table(
        ["profile", "MiB", "decode ms", f"prefill {PREFILL} ms", "make s", "read s", "peak"], rows
    )
    print("\nspeeds are times faster than bfloat16; the peak is over bfloat16's bytes")


if __name__ == "__main__":
    peak(Path(sys.argv[1]), sys.argv[2]) if len(sys.argv) == 3 else main()
