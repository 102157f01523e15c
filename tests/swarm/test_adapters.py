"""Adapters in processes, by the command line alone: served, asked for, exchanged while it runs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from manyhands.models import BUILT_IN
from tests.adapters import merged, write_adapter
from tests.cli.command import assert_explained, manyhands
from tests.swarm.processes import start

pytestmark = [pytest.mark.swarm, pytest.mark.slow]

PROMPT, N = "Once upon a time", 20


def pefts_answer(adapter: Path) -> list[int]:
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(BUILT_IN)(PROMPT, return_tensors="pt")
    out = merged(BUILT_IN, adapter).generate(
        **ids, do_sample=False, max_new_tokens=N, eos_token_id=None
    )
    answer: list[int] = out[0, ids["input_ids"].shape[1] :].tolist()
    return answer


def test_a_node_serves_adapters_from_its_start_and_takes_others_while_it_runs(tmp_path):
    home = tmp_path / "home"
    pirate = write_adapter(tmp_path / "pirate", BUILT_IN, seed=1)
    poet = write_adapter(tmp_path / "poet", BUILT_IN, seed=2)
    other = Path(shutil.copytree(poet, tmp_path / "other"))
    path = "base_model.model.model.layers.99.self_attn.q_proj"
    a, b = torch.zeros(4, 64), torch.zeros(64, 4)
    save_file(
        {f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b},
        other / "adapter_model.safetensors",
    )

    def ask(model: str):
        answer = ("--max-tokens", N, "--temperature", 0, "--ignore-eos", "--json")
        return manyhands("generate", model, "--prompt", PROMPT, *answer, "--home", home)

    node = start(
        *("serve", "tiny", "--home", home, "--listen", "127.0.0.1:0", "--dtype", "float32"),
        *("--adapter", f"pirate={pirate}", "--threads", 1, "--drain", 1),
    )
    try:
        assert node.stdout is not None
        ready = json.loads(node.stdout.readline())
        first = ask("tiny:pirate")
        missing = ask("tiny:poet")
        loaded = manyhands("adapters", "load", f"poet={poet}", "--home", home)
        second = ask(f"tiny:{loaded.out.strip()}")
        refused = manyhands("adapters", "load", f"other={other}", "--home", home)
        mended = manyhands("adapters", "load", f"other={poet}", "--home", home)
        manyhands("adapters", "load", f"other={other}", "--home", home)
        cleared = manyhands("adapters", "unload", "other", "--home", home)
        listed = json.loads(manyhands("adapters", "list", "--json", "--home", home).out)
        unloaded = manyhands("adapters", "unload", "poet", "--home", home)
        third = ask("tiny:poet")
    finally:
        node.terminate()
        node.wait(timeout=60)

    assert [name.partition("@")[0] for name in ready["adapters"]] == ["pirate"]
    assert json.loads(first.out)["token_ids"] == pefts_answer(pirate)
    assert json.loads(second.out)["token_ids"] == pefts_answer(poet)
    assert_explained(missing, 5, "with adapter poet", ready["adapters"][0])
    assert_explained(refused, 8, "the node does not serve it", "layers.99", "adapters unload other")
    assert (mended.code, cleared.code, unloaded.code) == (0, 0, 0), mended.err + cleared.err
    assert_explained(third, 5, "with adapter poet")
    assert sorted(row["adapter"].partition("@")[0] for row in listed["adapters"]) == [
        "pirate",
        "poet",
    ]
    assert all(row["served"] for row in listed["adapters"])
