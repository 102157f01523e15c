"""The last check: a node of its own on loopback, and an answer from it, end to end."""

import json
import tempfile
from pathlib import Path

from manyhands.doctor.case import Case
from manyhands.doctor.finding import Check, Finding, fail, ok
from protocol.messages import Span

N_TOKENS, DEADLINE_S = 8, 120.0
PROMPT = "Once upon a time"


async def _generation(case: Case) -> Finding:
    """A real `serve` process with the built-in model, a client, eight tokens, a receipt."""
    from manyhands.asking import Ask, open_client
    from manyhands.generate import stream
    from manyhands.home import Home
    from manyhands.local import LocalSwarm
    from manyhands.models import TINY, find_model
    from protocol.text import Tokenizer

    with tempfile.TemporaryDirectory(prefix="manyhands-doctor-") as place:
        swarm = LocalSwarm(TINY, [Span(0, 8)], Path(place) / "nodes", threads=1)
        async with swarm.running():
            model = find_model(TINY)
            tokenizer = Tokenizer.from_directory(model.directory)
            ids = tokenizer.encode(PROMPT)
            ask = Ask(max_tokens=N_TOKENS, ignore_eos=True, forget=True, no_spares=True)
            home = Home.at(Path(place) / "client")
            async with open_client(home, swarm.addresses) as client:
                answer = await stream(
                    client, ask.request(model, ids, tokenizer), lambda event: None
                )
    if len(answer.token_ids) != N_TOKENS or len(answer.receipts) != 1:
        told = json.dumps({"tokens": len(answer.token_ids), "receipts": len(answer.receipts)})
        return fail(f"the answer is not whole: {told}", "manyhands demo tells more")
    return ok(
        f"{N_TOKENS} tokens from a node on loopback, the first in {answer.ttft_ms:.0f} ms, "
        f"with a receipt"
    )


CHECKS = (
    Check(
        "generation", "an answer from a node on loopback", _generation, DEADLINE_S, is_heavy=True
    ),
)
