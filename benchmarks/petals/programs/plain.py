"""The whole model in one process, answered by `transformers` generate; many prompts as one batch.

In: a checkpoint. Greedy, one thread. See `worker.py`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import worker


def main():
    lines = worker.own_output()

    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()

    def answers(prompts, n_tokens):
        heard = worker.Heard()
        out = model.generate(
            torch.tensor(prompts),
            max_new_tokens=n_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            streamer=heard,
        )
        return [heard.answer(row[len(prompts[0]) :].tolist()) for row in out]

    worker.serve(answers, lines)


if __name__ == "__main__":
    main()
