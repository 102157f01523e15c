"""Any checkpoint that is given by `--checkpoint DIR`: three processes equal the unsplit model.

`scripts/test tests/swarm/test_checkpoint.py --checkpoint DIR`; without it, the built-in model.
"""

import json
import random
from pathlib import Path

import pytest

from manyhands.local import even_split
from manyhands.models import BUILT_IN
from tests.cli.command import manyhands
from tests.swarm.processes import swarm

pytestmark = pytest.mark.swarm

N_TOKENS, N_PROMPTS = 32, 4


@pytest.fixture(scope="module")
def checkpoint(request: pytest.FixtureRequest) -> Path:
    given: Path | None = request.config.getoption("--checkpoint")
    return (given or BUILT_IN).resolve()


def test_greedy_tokens_of_three_processes_are_those_of_the_unsplit_model(checkpoint, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    text = model.config.get_text_config()
    spans = even_split(text.num_hidden_layers, min(3, text.num_hidden_layers))
    die = random.Random(1)
    prompts = [[die.randrange(text.vocab_size) for _ in range(die.randint(1, 40))]]
    prompts += [[die.randrange(3, text.vocab_size) for _ in range(5)] for _ in range(N_PROMPTS - 1)]

    with swarm(tmp_path, str(checkpoint), [str(span) for span in spans]) as nodes:
        for prompt in prompts:
            asked = manyhands(
                *("generate", checkpoint, "--prompt-ids", ",".join(map(str, prompt))),
                *("--max-tokens", N_TOKENS, "--temperature", 0, "--ignore-eos", "--json"),
                *(f"--join={node.address}" for node in nodes),
                *("--home", tmp_path / "client"),
            )
            assert asked.code == 0, asked.err
            out = model.generate(
                torch.tensor([prompt]),
                max_new_tokens=N_TOKENS,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
            assert json.loads(asked.out)["token_ids"] == out[0, len(prompt) :].tolist()
