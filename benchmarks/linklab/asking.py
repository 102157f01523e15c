"""What a variant asks, and how its answers are measured: by the ring, with the ends at the client,
or of plain `transformers` in this process.

In: a client, a model, a workload. Out: an `Answer` for each session. Prompts follow from the
session's number, so that any two variants can be held against each other token for token.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.linklab.scenario import Variant, Workload
from manyhands.models import Model
from protocol.address import Address
from scheduler import Client, Finished, GenerationRequest, Token

WAIT_S = 120.0  # for peers to have found each other


@dataclass(slots=True)
class Answer:
    """times_s: of each token, on this process's clock. hops_ms: the last step of each hop."""

    began_s: float
    times_s: list[float] = field(default_factory=list)
    token_ids: tuple[int, ...] = ()
    hops_ms: tuple[float, ...] = ()
    failovers: int = 0
    pauses_ms: tuple[float, ...] = ()

    @property
    def ttft_ms(self) -> float:
        return 1000 * (self.times_s[0] - self.began_s)

    @property
    def tpot_ms(self) -> float:
        """Between the first token and the last; 0: there is only one."""
        n = len(self.times_s) - 1
        return 1000 * (self.times_s[-1] - self.times_s[0]) / n if n else 0.0


def prompt_of(model: Model, workload: Workload, session: int) -> tuple[int, ...]:
    """Ids of that session's prompt: all alike where an oracle knows only one answer."""
    if workload.text:
        from protocol.text import Tokenizer

        tokenizer = Tokenizer.from_directory(model.directory)
        return tuple(tokenizer.encode_chat([{"role": "user", "content": workload.text}]))
    salt = 0 if workload.oracle is not None else session
    ids = range(workload.prompt_tokens)
    most = model.manifest.vocab_size - 256
    return tuple(1 + (i * 7919 + salt * 104_729) % most for i in ids)


def request_of(model: Model, variant: Variant, session: int) -> GenerationRequest:
    asked, wire = variant.workload, variant.nodes.wire
    plain = common.request(model, prompt_of(model, asked, session), asked.tokens)
    profile = None if wire == "auto" else f"float32/none/{wire}"  # who names none, gets no rounding
    return replace(plain, drafter=asked.drafter, wait_s=WAIT_S, profile=profile, spares=False)


async def by_ring(
    client: Client, request: GenerationRequest, seen: Callable[[int], None] = lambda n: None
) -> Answer:
    """`seen` is told of each token how many there are now."""
    answer = Answer(time.perf_counter())
    async with client.generate(request) as generation:
        async for event in generation:
            if isinstance(event, Token):
                answer.times_s.append(time.perf_counter())
                seen(len(answer.times_s))
            if isinstance(event, Finished):
                result = event.result
                answer.token_ids = result.token_ids
                answer.hops_ms = tuple(step.run_ms for step in result.route)
                answer.failovers, answer.pauses_ms = result.failovers, result.pauses_ms
    return answer


class Clock:
    """A `transformers` streamer that notes when tokens came."""

    def __init__(self, seen: Callable[[int], None] = lambda n: None) -> None:
        self.answer, self._seen, self._is_prompt = Answer(time.perf_counter()), seen, True

    def put(self, ids: Any) -> None:
        if self._is_prompt:
            self._is_prompt = False
            return
        self.answer.times_s.append(time.perf_counter())
        self._seen(len(self.answer.times_s))

    def end(self) -> None:
        pass


class AtTheClient:
    """The same chain with its ends here: each token comes by and is sent on."""

    def __init__(self, model: Model, home: Path, join: Sequence[Address]) -> None:
        from manyhands import AutoDistributedModelForCausalLM

        self._model = AutoDistributedModelForCausalLM.from_pretrained(
            model.directory, join=list(map(str, join)), home=home, wait_s=WAIT_S
        )

    async def answer(self, request: GenerationRequest, seen: Callable[[int], None]) -> Answer:
        return await asyncio.to_thread(_generate, self._model, request, seen)


class Plain:
    """The whole model in this process, unsplit, on one thread."""

    def __init__(self, model: Model) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self._model = AutoModelForCausalLM.from_pretrained(model.directory, dtype=torch.float32)

    async def answers(self, requests: Sequence[GenerationRequest]) -> list[Answer]:
        """All as one batch."""
        return await asyncio.to_thread(self._answers, requests)

    def _answers(self, requests: Sequence[GenerationRequest]) -> list[Answer]:
        if len(requests) == 1:
            return [_generate(self._model, requests[0], lambda n: None)]
        import torch

        # A streamer takes one sequence only, so the first token is timed by itself.
        prompts = torch.tensor([request.prompt_ids for request in requests])
        n_tokens = requests[0].max_tokens
        how = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        began_s = time.perf_counter()
        self._model.generate(prompts, max_new_tokens=1, **how)
        first_s = time.perf_counter() - began_s
        began_s = time.perf_counter()
        out = self._model.generate(prompts, max_new_tokens=n_tokens, **how)
        rest_s = time.perf_counter() - began_s - first_s
        times_s = [began_s + first_s + rest_s * i / max(1, n_tokens - 1) for i in range(n_tokens)]
        return [Answer(began_s, times_s, tuple(row[prompts.shape[1] :].tolist())) for row in out]


def _generate(model: Any, request: GenerationRequest, seen: Callable[[int], None]) -> Answer:
    import torch

    clock, prompt = Clock(seen), torch.tensor([request.prompt_ids])
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=request.max_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        streamer=clock,
    )
    clock.answer.token_ids = tuple(out[0, len(request.prompt_ids) :].tolist())
    return clock.answer
