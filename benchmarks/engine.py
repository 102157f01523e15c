"""Decode speed of the shard engine beside `transformers` generate, in one process and one run.

A random Llama of 12 blocks x 768 (16 k vocabulary), greedy, one torch thread. All take turns,
round by round; the ratios of each round, and the median of them, are what counts. With `--cpu-time`
each side is timed in seconds of its own thread, so that others on the machine count for less.
Goals: one session >= 1.0 of generate; 16 sessions >= 5.5 x one in float32, >= 7.5 x in bfloat16.
Run: python benchmarks/engine.py [--dtype bfloat16] [--cpu-time]
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch

from node.engine import ShardEngine, StepItem, load_shard

PROMPT, TOKENS = 64, 64


class Engine:
    """Some equal sessions, all decoding in step."""

    def __init__(self, engine: ShardEngine, prompt: torch.Tensor, clock: Callable[[], float]):
        self.engine, self.prompt, self.clock = engine, prompt, clock

    def decode(self, n_sessions: int) -> tuple[list[int], float]:
        """Greedy ids of the first session; tokens/s of all of them after the first token."""
        engine = self.engine
        leases = [engine.open(PROMPT + TOKENS) for _ in range(n_sessions)]
        for lease in leases:
            result = engine.step([StepItem(lease, 0, self.prompt, 1)])[0]
        ids = [_greedy(result.logits)]
        began = self.clock()
        for position in range(PROMPT, PROMPT + TOKENS - 1):
            row = torch.tensor(ids[-1:])
            result = engine.step([StepItem(lease, position, row, 1) for lease in leases])[0]
            ids.append(_greedy(result.logits))
        return ids, n_sessions * (TOKENS - 1) / (self.clock() - began)


class Whole:
    """The unsplit model."""

    def __init__(self, directory: Path, dtype: str, prompt: torch.Tensor, clock: Any) -> None:
        from transformers import AutoModelForCausalLM

        kind = getattr(torch, dtype)
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=kind).eval()
        self.prompt, self.clock = prompt, clock

    def decode(self) -> tuple[list[int], float]:
        _, first_s = self._generate(1)
        ids, all_s = self._generate(TOKENS)
        return ids, (TOKENS - 1) / (all_s - first_s)

    def _generate(self, n_tokens: int) -> tuple[list[int], float]:
        began = self.clock()
        ids = self.model.generate(
            self.prompt[None],
            max_new_tokens=n_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return ids[0, PROMPT:].tolist(), self.clock() - began


def _greedy(logits: torch.Tensor | None) -> int:
    assert logits is not None
    return int(logits[0].argmax())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--sessions", type=int, nargs="*", default=[8, 16])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.thread_time if options.cpu_time else time.perf_counter
    prompt = torch.randint(3, 16384, (PROMPT,), generator=torch.Generator().manual_seed(1))
    with common.random_llama() as directory:
        whole = Whole(directory, options.dtype, prompt, clock)
        loaded = load_shard(directory, None, dtype=options.dtype)
    engine = Engine(loaded, prompt, clock)
    counts = sorted({1, *options.sessions})
    rates: dict[int, list[float]] = {count: [] for count in (0, *counts)}  # 0: generate
    equal = True
    for _ in range(options.rounds):
        expected, rate = whole.decode()
        rates[0].append(rate)
        for count in counts:
            ids, rate = engine.decode(count)
            rates[count].append(rate)
            equal = equal and ids == expected
    print(f"\n{common.machine()}; {options.dtype}, {loaded.forward_kind}, ", end="")
    print(f"{'CPU' if options.cpu_time else 'wall'} time; tokens equal: {equal}\n")
    common.table(
        ["", "tokens/s", "vs generate", "vs 1 session"],
        [
            [
                f"engine, {count} session{'s' * (count > 1)}" if count else "transformers generate",
                f"{common.median(values):.1f}",
                f"{_ratio(values, rates[0]):.2f}",
                f"{_ratio(values, rates[1]):.2f}" if count else "",
            ]
            for count, values in rates.items()
        ],
    )


def _ratio(values: list[float], base: list[float]) -> float:
    """The median of the rounds' ratios."""
    return common.median([one / other for one, other in zip(values, base, strict=True)])


if __name__ == "__main__":
    main()
