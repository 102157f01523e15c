"""What drafts gain over distance: the same chain with them and without, in one run.

Four nodes far apart (`linklab/`), the client with them. First a random Llama 8 x 512 with an
oracle for a drafter (`oracle_node.py`), each of whose guesses is right with a given probability,
beside the bound 1 / ((1 - a) L + a t): L is what a token takes without drafts, t what its row takes
the busiest node, a how many of the guesses were right. Then the built-in model with drafters that
anybody can have, on text that repeats nothing and on text that does, never in one figure: prompt
lookup, and with `--draft-model` (`small_sibling.py` makes one) a model at the last node; then many
sessions at once, over these links and on loopback. Tokens have to be equal with drafts and without.
Goals: 2.0 / 3.1 / 4.6 x at 0.6 / 0.75 / 0.85, 80 % of the bound; without repetition 0.98 x; many
sessions 1.0 x. Run: python benchmarks/speculation.py [--tokens 1000] [--ms 25]
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import common
from oracle_node import is_right, name_of

from benchmarks.linklab.swarm import LabSwarm
from benchmarks.linklab.ways import Way
from manyhands.asking import open_client
from manyhands.home import Home
from manyhands.local import LocalNode, even_split
from manyhands.models import Model, find_model
from protocol.grammar import Grammar
from protocol.text import Tokenizer
from scheduler import Client, Finished, GenerationRequest, GenerationResult

LLAMA_8_512 = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
}
N_NODES, PROMPT = 4, list(range(1, 65))
WAIT_S = 120.0  # for all to have found each other
PEOPLE = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"enum": ["Ana", "Bo", "Cem"]},
            "likes": {"enum": ["tea", "rain"]},
            "is_tall": {"type": "boolean"},
        },
        "required": ["name", "likes", "is_tall"],
        "additionalProperties": False,
    },
    "minItems": 4,
    "maxItems": 5,
}
TEXTS = {
    "novel: a story": ("Tell me a story about a lamp and the sea.", None),
    "novel: another": ("Tell me a story about a boat.", None),
    "repeats itself: questions, answered": ("Why is the sky blue?", None),
    "repeats itself: JSON of one shape": ("Who lives here?", Grammar.json_schema(PEOPLE)),
}


class OracleSwarm(LabSwarm):
    program = (str(Path(__file__).with_name("oracle_node.py")),)
    draft_model = ""  # of the last node

    def _where(self, node: LocalNode) -> tuple[str, ...]:
        is_last = node is self.nodes[-1] and bool(self.draft_model)
        return (*super()._where(node), *(("--draft-model", self.draft_model) if is_last else ()))


@asynccontextmanager
async def far_apart(
    model: str, one_way_ms: float, draft_model: str = ""
) -> AsyncIterator[tuple[Client, Model]]:
    spans = even_split(8, N_NODES)
    ways = {(a, b): Way(one_way_ms) for a in range(N_NODES) for b in range(N_NODES) if a != b}
    with tempfile.TemporaryDirectory(prefix="manyhands-lab-") as scratch:
        os.environ["ORACLE"] = str(Path(scratch) / "truth.json")
        swarm = OracleSwarm(model, spans, Path(scratch), ways)
        swarm.draft_model = draft_model
        home = Home.at(Path(scratch) / "client")
        async with swarm.far_apart(), open_client(home, swarm.addresses) as client:
            yield client, find_model(model)


async def answered(client: Client, request: GenerationRequest) -> GenerationResult:
    async with client.generate(request) as generation:
        async for event in generation:
            if isinstance(event, Finished):
                assert event.result.failovers == 0
                return event.result
    raise RuntimeError("no answer")


def tell(prompt: Sequence[int], result: GenerationResult) -> None:
    """What oracles know from now on."""
    Path(os.environ["ORACLE"]).write_text(json.dumps([*prompt, *result.token_ids]))


async def with_oracles(options: argparse.Namespace) -> list[list[str]]:
    rows = []
    with common.random_llama(**LLAMA_8_512) as directory:
        async with far_apart(str(directory), options.ms) as (client, model):
            request = replace(common.request(model, PROMPT, options.tokens), wait_s=WAIT_S)
            await answered(client, replace(request, max_tokens=8))
            for a in options.acceptance:
                plain = await answered(client, request)  # each time: machines have moods
                tell(PROMPT, plain)
                row_ms = max(step.run_ms for step in plain.route)
                drafted = await answered(client, replace(request, drafter=name_of(a)))
                assert drafted.token_ids == plain.token_ids, "drafts changed the answer"
                right = [is_right(64 + at, a) for at in range(len(plain.token_ids))]
                share = sum(right) / len(right)
                bound_ms = (1 - share) * plain.tpot_ms + share * row_ms
                gain = plain.tpot_ms / drafted.tpot_ms
                rows.append(
                    [
                        f"{a:g} ({share:.3f} came)",
                        f"{plain.tpot_ms:.1f}",
                        f"{drafted.tpot_ms:.1f}",
                        f"{gain:.2f}",
                        f"{plain.tpot_ms / bound_ms:.2f}",
                        f"{bound_ms / drafted.tpot_ms:.0%}",
                    ]
                )
                print(" | ".join(rows[-1]), flush=True)
    return rows


async def side_by_side(options: argparse.Namespace) -> list[list[str]]:
    """Many sessions at once, all with drafts or none: nobody shall lose by guesses of others."""
    rows = []
    with common.random_llama(**LLAMA_8_512) as directory:
        for ms in (options.ms, 0.0):
            async with far_apart(str(directory), ms) as (client, model):
                request = common.request(model, PROMPT, options.session_tokens)
                request = replace(request, wait_s=WAIT_S)
                tell(PROMPT, await answered(client, request))
                for drafter in map(name_of, (0.2, 0.6, 0.85)):
                    plain = await tokens_per_s(client, request, options.sessions)
                    drafting = replace(request, drafter=drafter)
                    drafted = await tokens_per_s(client, drafting, options.sessions)
                    row = [f"{ms:g}", drafter, f"{plain:.1f}", f"{drafted:.1f}"]
                    rows.append([*row, f"{drafted / plain:.2f}"])
                    print(" | ".join(rows[-1]), flush=True)
    return rows


async def tokens_per_s(client: Client, request: GenerationRequest, n_sessions: int) -> float:
    began_s = time.perf_counter()
    answers = await asyncio.gather(*(answered(client, request) for _ in range(n_sessions)))
    assert len({answer.token_ids for answer in answers}) == 1
    return n_sessions * request.max_tokens / (time.perf_counter() - began_s)


async def with_real_drafters(options: argparse.Namespace) -> list[list[str]]:
    drafters = ["lookup", *(["model", "auto"] if options.draft_model else [])]
    rows = []
    async with far_apart("tiny", options.ms, options.draft_model) as (client, model):
        tokenizer = Tokenizer.from_directory(model.directory)
        for name, (text, grammar) in TEXTS.items():
            prompt = tokenizer.encode_chat([{"role": "user", "content": text}])
            request = common.request(model, prompt, options.text_tokens)
            request = replace(request, ignore_eos=grammar is None, grammar=grammar, wait_s=WAIT_S)
            for drafter in drafters:
                plain = await answered(client, request)
                drafted = await answered(client, replace(request, drafter=drafter))
                assert drafted.token_ids == plain.token_ids, "drafts changed the answer"
                times = [plain.tpot_ms, drafted.tpot_ms, plain.tpot_ms / drafted.tpot_ms]
                n = len(plain.token_ids)
                rows.append([drafter, name, str(n), *(f"{each:.2f}" for each in times)])
                print(" | ".join(rows[-1]), flush=True)
    return rows


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--text-tokens", type=int, default=256)
    parser.add_argument("--ms", type=float, default=25.0, help="of each link, one way")
    parser.add_argument("--draft-model", default="", help="of the last node, in the second part")
    parser.add_argument("--acceptance", type=float, nargs="*", default=[0.6, 0.75, 0.85])
    parser.add_argument("--sessions", type=int, default=8, help="at once; 0: not measured")
    parser.add_argument("--session-tokens", type=int, default=100)
    options = parser.parse_args()
    oracles = await with_oracles(options) if options.acceptance else []
    texts = await with_real_drafters(options) if options.text_tokens else []
    together = await side_by_side(options) if options.sessions else []
    print(f"\n{common.machine()}\n")
    heading = ["oracle", "plain ms/token", "drafted ms/token", "gain", "bound", "of the bound"]
    common.table(heading, oracles)
    print()
    heading = ["drafter", "on", "tokens", "plain ms/token", "drafted ms/token", "gain"]
    common.table(heading, texts)
    print()
    heading = ["ms a link", f"{options.sessions} sessions with", "plain tokens/s", "drafted", "x"]
    common.table(heading, together)


if __name__ == "__main__":
    asyncio.run(main())
