"""Decode speed of the shard engine beside `transformers` generate, in one process and one run.

A random Llama of 12 blocks x 768 (16 k vocabulary, fp32), batch 1, greedy, one torch thread. Both
sides take turns, round by round, and are timed in seconds of their own thread, so that a busy
machine slows both alike; the ratio of the medians is what counts. Run: python benchmarks/engine.py
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

LLAMA = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 16384,
    "max_position_embeddings": 2048,
}
PROMPT, TOKENS, ROUNDS = 64, 64, 5


def main() -> None:
    import torch

    from node.engine import ShardEngine, StepItem, load_shard
    from tests.checkpoints import write_checkpoint

    torch.set_num_threads(1)

    def decode(engine: ShardEngine, n_sessions: int) -> tuple[list[int], float]:
        """Greedy tokens of the first of `n_sessions` equal sessions; tokens/s of all of them."""
        leases = [engine.open(PROMPT + TOKENS) for _ in range(n_sessions)]
        for lease in leases:
            result = engine.step([StepItem(lease, 0, prompt, 1)])[0]
        assert result.logits is not None
        token = result.logits[0].argmax().view(1)
        ids = [int(token)]
        began = time.thread_time()
        for position in range(PROMPT, PROMPT + TOKENS - 1):
            items = [StepItem(lease, position, token, 1) for lease in leases]
            result = engine.step(items)[0]
            assert result.logits is not None
            token = result.logits[0].argmax().view(1)
            ids.append(int(token))
        elapsed_s = time.thread_time() - began
        return ids, n_sessions * (TOKENS - 1) / elapsed_s

    def generate(n_tokens: int) -> tuple[list[int], float]:
        began = time.thread_time()
        ids = whole.generate(
            prompt[None],
            max_new_tokens=n_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return ids[0, PROMPT:].tolist(), time.thread_time() - began

    with tempfile.TemporaryDirectory() as name:
        directory = write_checkpoint(Path(name), "llama", **LLAMA)
        from transformers import AutoModelForCausalLM

        whole = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        engine = load_shard(directory, None, dtype="float32")
    prompt = torch.randint(3, 16384, (PROMPT,), generator=torch.Generator().manual_seed(1))
    theirs: list[float] = []
    ours: dict[int, list[float]] = {1: [], 8: [], 16: []}
    for _ in range(ROUNDS):
        _, first_s = generate(1)
        expected, all_s = generate(TOKENS)
        theirs.append((TOKENS - 1) / (all_s - first_s))
        for n_sessions, rates in ours.items():
            ids, rate = decode(engine, n_sessions)
            rates.append(rate)
            if n_sessions == 1:
                assert ids == expected, "the engine's tokens differ from generate's"
    base = statistics.median(theirs)
    one = statistics.median(ours[1])
    print(f"llama 12 x 768, fp32, one thread, {ROUNDS} rounds, forward: {engine.forward_kind}")
    print(f"{'':24}{'tokens/s':>10}{'vs generate':>14}{'vs 1 session':>14}")
    print(f"{'transformers generate':24}{base:10.1f}{1:14.2f}")
    for n_sessions, rates in ours.items():
        rate = statistics.median(rates)
        label = f"engine, {n_sessions} session{'s' if n_sessions > 1 else ''}"
        print(f"{label:24}{rate:10.1f}{rate / base:14.2f}{rate / one:14.2f}")


if __name__ == "__main__":
    main()
