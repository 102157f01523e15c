"""What every model family must show: a chain of three spans is the unsplit model.

In: a checkpoint directory of six blocks. Out: a `Report` of what two sessions went through in
float32: prefill and 64 cached steps, the second joining the first midway, refused drafts, a
repeated step, a fork. Tests assert on it; `scripts/models_table.py` prints it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from node.engine import Lease, ShardEngine, StepItem, load_shard
from protocol.messages import Span

SPANS = (Span(0, 2), Span(2, 3), Span(3, 6))
N_STEPS, CAPACITY = 64, 96
JOINS, REFUSES, FORKS = 16, 32, 48  # at which step what happens
PROMPT = [1, 40, 77, 123, 9, 250, 33, 180, 66, 12, 5, 301, 99]
OTHER = [250, 33, 180, 66, 12, 5, 301]
DRAFTS = [7, 8, 9, 10, 11]


@dataclass(frozen=True, slots=True)
class Report:
    """`error` is the largest difference of any logit, relative to the largest logit."""

    forwards: tuple[str, ...]
    error: float
    tokens_are_equal: bool
    n_distinct: int
    repeats_exactly: bool
    forks_exactly: bool

    @property
    def is_exact(self) -> bool:
        same = self.tokens_are_equal and self.repeats_exactly and self.forks_exactly
        return same and self.error <= 1e-5


class Chain:
    """Sessions through the spans of a model; a session is a lease of each."""

    def __init__(self, directory: Path) -> None:
        self.engines: list[ShardEngine] = [
            load_shard(directory, span, dtype="float32") for span in SPANS
        ]

    def open(self) -> list[Lease]:
        return [engine.open(CAPACITY) for engine in self.engines]

    def fork(self, session: list[Lease]) -> list[Lease]:
        copy = self.open()
        for source, target in zip(session, copy, strict=True):
            target.load(source.export())
        return copy

    def feed(self, *runs: tuple[list[Lease], int, list[int]]) -> list[Tensor]:
        """Logits of all rows of each run, which are (session, first position, token ids)."""
        rows = [torch.tensor(ids) for _, _, ids in runs]
        results = []
        for number, engine in enumerate(self.engines):
            items = [
                StepItem(session[number], start, row, len(row))
                for (session, start, _), row in zip(runs, rows, strict=True)
            ]
            results = engine.step(items)
            rows = [result.hidden for result in results]
        logits = [result.logits for result in results]
        assert all(part is not None for part in logits)
        return [part for part in logits if part is not None]


class Text:
    """One session's greedy text, and the logits it was drawn from."""

    def __init__(self, chain: Chain, prompt: list[int]) -> None:
        self.session, self.prompt = chain.open(), prompt
        self.drawn: list[int] = []
        self.logits: list[Tensor] = []

    @property
    def run(self) -> tuple[list[Lease], int, list[int]]:
        """What comes next: the prompt, then token by token."""
        if not self.drawn:
            return self.session, 0, self.prompt
        return self.session, len(self.prompt) + len(self.drawn) - 1, self.drawn[-1:]

    def take(self, logits: Tensor) -> None:
        self.logits.append(logits)
        self.drawn.append(int(logits[-1].argmax()))


@torch.inference_mode()
def check_family(directory: Path, whole: Any = None) -> Report:
    """`whole` is the unsplit model, loaded from `directory` when not given."""
    from transformers import AutoModelForCausalLM

    whole = whole or AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    whole.eval()
    chain = Chain(directory)
    first, second = Text(chain, PROMPT), Text(chain, OTHER)
    repeats = forks = False
    for step in range(N_STEPS + 1):
        if step == REFUSES:
            session, start, _ = first.run
            chain.feed((session, start, DRAFTS))
        if step == FORKS:
            copy = (chain.fork(first.session), *first.run[1:])
            once, twice, elsewhere = (chain.feed(run)[0] for run in (first.run, first.run, copy))
            repeats, forks = torch.equal(once, twice), torch.equal(once, elsewhere)
        texts = [first, second] if step >= JOINS else [first]
        for text, logits in zip(texts, chain.feed(*(text.run for text in texts)), strict=True):
            text.take(logits)
    return Report(
        tuple(engine.forward_kind for engine in chain.engines),
        max(_error(text, whole) for text in (first, second)),
        all(text.drawn == _greedy(whole, text) for text in (first, second)),
        len(set(first.drawn)),
        repeats,
        forks,
    )


def _greedy(whole: Any, text: Text) -> list[int]:
    ids = whole.generate(
        torch.tensor([text.prompt]),
        max_new_tokens=len(text.drawn),
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    drawn: list[int] = ids[0, len(text.prompt) :].tolist()
    return drawn


def _error(text: Text, whole: Any) -> float:
    expected = whole(torch.tensor([text.prompt + text.drawn[:-1]])).logits[0]
    return float((torch.cat(text.logits) - expected).abs().max() / expected.abs().max())
