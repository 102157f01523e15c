"""Answers within JSON schemas: whether they are valid, whether they end, and what a mask costs.

The first table: sessions on `tiny` through a node process and real sockets, each with a schema, a
seed, a prompt and a temperature drawn from [0, 2]; an answer that stops must be valid, and nearly
all must stop. The second one: CPU time of masking one token (the library's, the unpacking, the
copy of the logits), along valid answers, for the vocabulary of `tiny` and for one of 128,000 made
words. Goals: 100 % of what stops is valid; >= 95 % stop; <= 0.2 ms per token.
Run: python benchmarks/structured.py [--runs 500]
"""

import argparse
import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import common
import numpy as np

from manyhands.models import BUILT_IN, Model
from protocol.grammar import Grammar
from protocol.guidance import Guidance
from protocol.messages import Span
from protocol.sampling import SamplingParams, possible
from protocol.text import Tokenizer
from scheduler import Client, Finished, GenerationRequest, GenerationResult

AT_ONCE, MAX_TOKENS = 8, 250
PROMPTS = (
    "Who are you?",
    "Tell me a story.",
    "What is the capital of Japan?",
    "What does a cow say?",
)


@dataclass(frozen=True)
class Case:
    """A schema, and a check of its own of what came out."""

    name: str
    schema: dict[str, Any]
    holds: Callable[[Any], bool]


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


NAME = {"type": "string", "maxLength": 20}
CASES = (
    Case(
        "person",
        _object({"name": NAME, "age": {"type": "integer", "minimum": 0, "maximum": 130}}),
        lambda it: (
            list(it) == ["name", "age"]
            and len(it["name"]) <= 20
            and type(it["age"]) is int
            and 0 <= it["age"] <= 130
        ),
    ),
    Case(
        "choice",
        _object({"mood": {"enum": ["glad", "sad"]}, "sure": {"type": "boolean"}}),
        lambda it: it["mood"] in ("glad", "sad") and type(it["sure"]) is bool and len(it) == 2,
    ),
    Case(
        "list",
        {"type": "array", "items": NAME, "minItems": 1, "maxItems": 4},
        lambda it: 1 <= len(it) <= 4 and all(type(x) is str and len(x) <= 20 for x in it),
    ),
    Case(
        "date",
        _object({"day": {"type": "string", "pattern": "^20[0-9]{2}-(0[1-9]|1[0-2])$"}}),
        lambda it: len(it["day"]) == 7 and it["day"][:2] == "20" and 1 <= int(it["day"][5:]) <= 12,
    ),
    Case(
        "nested",
        _object(
            {
                "by": _object({"first": NAME, "last": NAME}),
                "n": {"anyOf": [{"type": "null"}, {"const": 3}]},
            }
        ),
        lambda it: set(it["by"]) == {"first", "last"} and it["n"] in (None, 3),
    ),
)


async def answers(n_runs: int) -> list[tuple[Case, GenerationResult]]:
    die, turns = random.Random(6), asyncio.Semaphore(AT_ONCE)
    tokenizer = Tokenizer.from_directory(BUILT_IN)
    async with common.local_swarm("tiny", [Span(0, 4), Span(4, 8)]) as (_, client, model):

        async def one(case: Case, request: GenerationRequest) -> tuple[Case, GenerationResult]:
            async with turns:
                return case, await _result(client, request)

        asked = []
        for run in range(n_runs):
            prompt = tokenizer.encode_chat([{"role": "user", "content": die.choice(PROMPTS)}])
            case = CASES[run % len(CASES)]
            asked.append(one(case, _request(model, prompt, case, die)))
        return list(await asyncio.gather(*asked))


def _request(
    model: Model, prompt: Sequence[int], case: Case, die: random.Random
) -> GenerationRequest:
    return GenerationRequest(
        manifest=model.manifest.digest,
        n_blocks=model.manifest.n_blocks,
        prompt_ids=tuple(prompt),
        max_tokens=MAX_TOKENS,
        sampling=SamplingParams(temperature=die.uniform(0, 2), seed=die.getrandbits(32)),
        grammar=Grammar.json_schema(case.schema),
        spares=False,
    )


async def _result(client: Client, request: GenerationRequest) -> GenerationResult:
    async with client.generate(request) as generation:
        async for event in generation:
            if isinstance(event, Finished):
                return event.result
    raise RuntimeError("an answer without an end")


def is_valid(case: Case, text: str) -> bool:
    try:
        return case.holds(json.loads(text))
    except (ValueError, KeyError, TypeError):
        return False


def masking(tokenizer: Tokenizer, case: Case, walks: int = 20) -> list[float]:
    """Milliseconds of CPU per token, along random answers."""
    guidance, die = Guidance(tokenizer), np.random.default_rng(1)
    logits = die.standard_normal(tokenizer.vocab_size).astype(np.float32)
    spent = []
    for _ in range(walks):
        guide, ids = guidance.compile(Grammar.json_schema(case.schema)), []
        while len(ids) < MAX_TOKENS and not set(ids[-1:]) & tokenizer.eos_ids:
            began = time.thread_time_ns()
            allowed = guide.allowed(ids, len(logits))
            possible(logits, allowed, ())
            spent.append((time.thread_time_ns() - began) / 1e6)
            ids.append(int(die.choice(np.flatnonzero(allowed))))
    return spent


def wide_tokenizer(size: int = 128_000) -> Tokenizer:
    """Bytes, and made words of two to nine letters with and without a space before them."""
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers

    die, letters = random.Random(2), "etaoinshrdlucmfwypvbgkjqxz0123456789ETAOIN"
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for mark in ('{"', '":', '",', '"}', '":"', '","', "},", "]}", "true", "false", "null"):
        vocabulary.setdefault(mark, len(vocabulary))
    while len(vocabulary) < size:
        word = "".join(die.choices(letters, k=die.randint(2, 9)))
        vocabulary.setdefault(die.choice(("", "Ġ")) + word, len(vocabulary))
    fast = Fast(models.BPE(vocabulary, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens(["<end>"])
    files = {"tokenizer.json": fast.to_str().encode()}
    return Tokenizer(files | {"tokenizer_config.json": b'{"eos_token": "<end>"}'})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    options = parser.parse_args()
    told = asyncio.run(answers(options.runs))
    print(f"\n{common.machine()}; {len(told)} runs, temperatures 0 to 2\n")
    rows = []
    for name in ("all", *(case.name for case in CASES)):
        some = [(case, result) for case, result in told if name in ("all", case.name)]
        stopped = [(case, r.text) for case, r in some if r.finish_reason == "stop"]
        valid = sum(is_valid(case, text) for case, text in stopped)
        n_tokens = common.median([len(result.token_ids) for _, result in some])
        share = f"{100 * len(stopped) / len(some):.1f} %"
        rows.append([name, str(len(some)), share, f"{valid} of {len(stopped)}", f"{n_tokens:.0f}"])
    common.table(
        ["schema", "runs", "stop (goal 95 %)", "valid of those (goal all)", "tokens"], rows
    )
    print("\nMasking, ms of CPU per token (goal 0.2)\n")
    rows = []
    for tokenizer in (Tokenizer.from_directory(BUILT_IN), wide_tokenizer()):
        for case in CASES:
            spent = masking(tokenizer, case)
            cells = (np.mean(spent), np.median(spent), np.percentile(spent, 99))
            numbers = [f"{value:.3f}" for value in cells]
            rows.append([f"{tokenizer.vocab_size:,}", case.name, str(len(spent)), *numbers])
    common.table(["vocabulary", "schema", "tokens", "mean", "median", "99 %"], rows)


if __name__ == "__main__":
    main()
