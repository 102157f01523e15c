"""A client of a Petals swarm; prompts that come together are sessions of threads of their own.

In: a checkpoint, the swarm's name for it, and addresses of servers. Greedy, one torch thread. Runs
in Petals' environment. See `worker.py`.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import worker

MOST_AT_ONCE = 64


def main():
    lines = worker.own_output()
    directory, prefix, *peers = sys.argv[1:]

    import torch
    from petals import AutoDistributedModelForCausalLM

    torch.set_num_threads(1)
    model = AutoDistributedModelForCausalLM.from_pretrained(
        directory,
        torch_dtype=torch.float32,
        initial_peers=peers,
        dht_prefix=prefix,
        max_retries=2,
    ).eval()
    model.generation_config.eos_token_id = None

    def answer(prompt, n_tokens):
        heard = worker.Heard()
        out = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=n_tokens,
            do_sample=False,
            pad_token_id=0,
            streamer=heard,
        )
        return heard.answer(out[0, len(prompt) :].tolist())

    def answers(prompts, n_tokens):
        if len(prompts) == 1:
            return [answer(prompts[0], n_tokens)]
        return list(pool.map(answer, prompts, [n_tokens] * len(prompts)))

    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        worker.serve(answers, lines)
    worker.end_others()  # the daemon and the directory's process; no session is open any more
    os._exit(0)  # its threads would keep it


if __name__ == "__main__":
    main()
