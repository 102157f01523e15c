"""Answers within JSON schemas: whether they are valid, whether they end, and what a mask costs.

The first table: sessions on `tiny` through a node process and real sockets, each with a schema, a
seed, a prompt and a temperature drawn from [0, 2]; an answer that stops must be valid, and nearly
all must stop. The second one, along valid answers, for the vocabulary of `tiny` and for one of
128,000 made words: the CPU time of a mask (the library's, and making logits of it), and what a
token takes longer for it where it is drawn: masks are made on other threads while the model runs,
here `FORWARD_MS` of matrix products (a model with such a vocabulary takes longer). That time is
told as the drawing thread's CPU time, and by the clock, waits for late masks included.
Goals: 100 % of what stops is valid; >= 95 % stop; <= 0.2 ms more per token.
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
WALKS, FORWARD_MS = 20, 5.0
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


@dataclass(frozen=True)
class Spent:
    """Milliseconds for one token. mask: of CPU, where nobody made it ahead. added, waited: for who
    draws, of CPU and by the clock, where somebody did."""

    mask: float
    added: float
    waited: float


def masking(guidance: Guidance, tokenizer: Tokenizer, case: Case, seed: int) -> list[Spent]:
    """Along one random answer, which two guides follow: one as it comes, one ahead."""
    die, grammar = np.random.default_rng(seed), Grammar.json_schema(case.schema)
    plain, ahead = guidance.compile(grammar), guidance.compile(grammar)
    logits = die.standard_normal(tokenizer.vocab_size).astype(np.float32)
    matrix = die.standard_normal((256, 256)).astype(np.float32)
    spent: list[Spent] = []
    ids: list[int] = []
    while len(ids) < MAX_TOKENS and not set(ids[-1:]) & tokenizer.eos_ids:
        began = time.thread_time_ns()
        left = possible(logits, plain.bars(ids, len(logits)), ())
        mask_ms = (time.thread_time_ns() - began) / 1e6
        drawn = int(die.choice(np.flatnonzero(np.isfinite(left))))
        until = time.perf_counter() + FORWARD_MS / 1e3
        while time.perf_counter() < until:
            matrix @ matrix
        began, began_s = time.thread_time_ns(), time.perf_counter()
        same = possible(logits, ahead.bars(ids, len(logits)), ())
        ids.append(drawn)
        ahead.begin(ids, len(logits))
        added_ms = (time.thread_time_ns() - began) / 1e6
        spent.append(Spent(mask_ms, added_ms, 1e3 * (time.perf_counter() - began_s)))
        assert np.array_equal(left, same)
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
    print(f"\nMasking, ms per token; beside a forward of {FORWARD_MS:g} ms (goal: 0.2 more)\n")
    rows = []
    for tokenizer in (Tokenizer.from_directory(BUILT_IN), wide_tokenizer()):
        guidance = Guidance(tokenizer)
        for case in CASES:
            walks = (masking(guidance, tokenizer, case, seed) for seed in range(WALKS))
            spent = [each for walk in walks for each in walk]
            cells = [
                *_about([each.mask for each in spent]),
                *_about([each.added for each in spent]),
                *_about([each.waited for each in spent]),
            ]
            rows.append([f"{tokenizer.vocab_size:,}", case.name, str(len(spent)), *cells])
    kinds = ("mask, CPU", "added, CPU", "added, by the clock")
    common.table(["vocabulary", "schema", "tokens", *kinds], rows)


def _about(values: Sequence[float]) -> list[str]:
    mean, middle, high = np.mean(values), np.median(values), np.percentile(values, 99)
    return [f"{mean:.3f} (median {middle:.3f}, 99 % {high:.2f})"]


if __name__ == "__main__":
    main()
