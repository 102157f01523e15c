"""The examples of docs/python.md, over real sockets, from `from_pretrained` to `close`."""

import asyncio
import re
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from ledger.verify import verify_ledger
from manyhands.models import BUILT_IN
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from tests.local_swarm import swarm

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


async def test_the_examples_run_as_they_stand(tmp_path):
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))

    def over_sockets(identity):
        return GrpcTransport(identity, OPEN_SWARM_ID)

    async with swarm(BUILT_IN, tmp_path, over_sockets, (0, 4), (4, 8)) as built:
        code = code.replace('["ADDR"]', f'["{built.nodes[1].address}"], home="{tmp_path}/home"')
        names: dict[str, object] = {}
        await asyncio.to_thread(exec, compile(code, str(PAGE), "exec"), names)
        assert all(local.node.sessions.reserved_bytes == 0 for local in built.nodes)

    ids, tokens = names["ids"], names["greedy"]
    assert isinstance(ids, torch.Tensor)
    assert isinstance(tokens, torch.Tensor)
    local = AutoModelForCausalLM.from_pretrained(BUILT_IN, dtype=torch.float32)
    assert tokens.tolist() == local.generate(ids, max_new_tokens=10, do_sample=False).tolist()
    assert type(names["model"]).__name__ == type(local).__name__
    assert verify_ledger(tmp_path / "home" / "client").holds
