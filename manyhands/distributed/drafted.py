"""Drafts by a client that holds the ends: guesses travel with the token they follow, to be judged.

In: what `generate` hands to a decoding method: ids, processors, stopping criteria, a remote cache.
Out: the ids that it gives without guesses, in fewer journeys around the peers. All rows of a window
go out at once; behind each that comes back a token is drawn, and while that is the guess, the next
row is there already. From the first that is not, the cache is cut, and the next window rolls the
peers back. A draw is a function of the scores, the seed and the position alone, as at a last hop
(`protocol.sampling`), so what is guessed changes no draw.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.generation.utils import GenerateDecoderOnlyOutput

from manyhands.distributed.cache import RemoteCache
from node.drafting import Drafting, Source
from node.step_cost import Shape, StepCost
from node.thinking_time import ThinkingTime
from node.work import RowCost
from protocol.asking import MAX_DRAFTS
from protocol.errors import UsageError
from protocol.lookup import Lookup
from protocol.sampling import SamplingParams, sample

log = logging.getLogger(__name__)

NOBODY, LOOKUP = "none", "lookup"


class Drafted:
    """A decoding method for `generate(custom_generate=…)`, for one call of it.

    drafter: `none`, `lookup`, or a small model of the transformers library with the same tokenizer,
        which the caller sees to: how many ids it knows is all that is compared here.
    seed: of the draws, where the caller samples.
    """

    def __init__(self, drafter: Any, seed: int = 0, streamer: Any = None) -> None:
        if isinstance(drafter, str) and drafter not in (NOBODY, LOOKUP):
            known = f"{NOBODY}, {LOOKUP}, or a small model with the same tokenizer"
            raise UsageError(f"no drafter is called {drafter!r} here", hint=f"one of {known}")
        self._drafter, self._streamer = drafter, streamer
        self._draws = SamplingParams(temperature=1.0, seed=seed)
        self._cost = StepCost(0, 0)

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **inputs: Any,
    ) -> Any:
        cache = self._check(model, input_ids, generation_config, inputs)
        known, n_prompt = cache.get_seq_length(), input_ids.shape[1]
        ids: list[int] = input_ids[0].tolist()
        drafter, drafts = self._source(model, generation_config), list[int]()
        is_done = False
        while not is_done:
            rows = self._run(model, cache, ids[known:], drafts)
            for at, row in enumerate(rows):
                so_far = torch.tensor([ids], device=input_ids.device)
                scores = logits_processor(so_far, row[None].to(input_ids.device))
                ids.append(self._draw(scores[0], n_prompt, len(ids), generation_config.do_sample))
                came = torch.tensor([ids], device=input_ids.device)
                if self._streamer is not None:
                    self._streamer.put(came[0, -1:].cpu())
                is_done = bool(stopping_criteria(came, scores).all())
                if is_done or at >= len(drafts) or ids[-1] != drafts[at]:
                    break
            known = len(ids) - 1
            cache.cut(min(known, cache.get_seq_length()))
            room = generation_config.max_length - len(ids) - 1
            drafts = list(drafter.guess(ids, room)) if drafter and not is_done else []
        if self._streamer is not None:
            self._streamer.end()
        if not generation_config.return_dict_in_generate:
            return came
        return GenerateDecoderOnlyOutput(sequences=came, past_key_values=cache)

    def _check(self, model: Any, input_ids: Tensor, config: Any, inputs: Any) -> RemoteCache:
        cache = inputs.get("past_key_values")
        if not isinstance(cache, RemoteCache) or input_ids.shape[0] != 1 or config.num_beams != 1:
            raise UsageError("a drafter guesses for one sequence, with a cache and without beams")
        if inputs.get("attention_mask") is not None:
            raise UsageError("a drafter guesses behind a prompt without padding")
        size = getattr(getattr(self._drafter, "config", None), "vocab_size", None)
        if not isinstance(self._drafter, str) and size != model.config.vocab_size:
            raise UsageError(
                f"a model of {size} tokens cannot guess for one of {model.config.vocab_size}",
                hint="drafter: a small model of the same family, with the same tokenizer",
            )
        return cache

    def _source(self, model: Any, config: Any) -> Drafting | None:
        """Guesses as far ahead as pays, by how long windows take from here."""
        if self._drafter == NOBODY:
            return None
        source = Source(Lookup())
        if self._drafter != LOOKUP:
            small = SmallModel(self._drafter)
            source = Source(small, lambda: small.time.guess_s)
        ends = config.eos_token_id
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]

        def costs(position: int) -> RowCost:
            return RowCost(self._cost.row_us(position) / 1e6, 1)

        return Drafting([source], costs, 1.0, frozenset(ends))

    def _run(
        self, model: Any, cache: RemoteCache, new: Sequence[int], drafts: Sequence[int]
    ) -> Tensor:
        """What the head says behind the newest id and each draft, [1 + drafts, vocab_size]."""
        window = torch.tensor([[*new, *drafts]], device=model.device)
        start, began_s = cache.get_seq_length(), time.perf_counter()
        n_rows = 1 + len(drafts)
        output = model(
            input_ids=window, past_key_values=cache, use_cache=True, **_keeping(model, n_rows)
        )
        spent_us = (time.perf_counter() - began_s) * 1e6
        self._cost.saw(
            "prompt" if len(new) > 1 else "window", Shape.of((start, len(window[0]))), spent_us
        )
        rows: Tensor = output.logits[0, -n_rows:].float()
        return rows

    def _draw(self, scores: Tensor, n_prompt: int, position: int, samples: bool) -> int:
        if not samples:
            return int(scores.argmax())
        row = scores.float().cpu().numpy()
        return sample(row, self._draws, (), n_prompt=n_prompt, position=position)


class SmallModel:
    """A `protocol.actions.Drafter`: what a model here would say next, greedily.

    It falls silent where its context ends, and for good if it fails: guesses end, and no answer.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._cache = model, DynamicCache(config=model.config)
        self._run: list[int] = []  # ids whose rows are in the cache
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._context = context or math.inf  # some count no positions
        self._has_failed = False
        self.time = ThinkingTime()

    @torch.no_grad()
    def guess(self, ids: Sequence[int], most: int) -> Sequence[int]:
        most = int(min(most, MAX_DRAFTS, self._context - len(ids) + 1))  # it reads all but one
        if most <= 0 or self._has_failed:
            return ()
        try:
            self._forget(ids)
            return list(self._guesses(ids, most))
        except Exception as error:  # whatever a model of the caller's raises
            log.warning("a drafter failed: nothing more is guessed", extra={"error": repr(error)})
            self._has_failed = True
            return ()

    def _guesses(self, ids: Sequence[int], most: int) -> Iterator[int]:
        rows = list(ids[len(self._run) :])
        for _ in range(most):
            began_s, n_rows = time.perf_counter(), len(rows)
            window = torch.tensor([rows], device=self._model.device)
            output = self._model(
                window, past_key_values=self._cache, use_cache=True, **_keeping(self._model, 1)
            )
            self._run += rows
            rows = [int(output.logits[0, -1].argmax())]
            self.time.took(n_rows, time.perf_counter() - began_s)
            yield rows[0]

    def _forget(self, ids: Sequence[int]) -> None:
        """Rows of guesses that did not come; the last row is run again, for what follows it."""
        pairs = enumerate(zip(self._run, ids[:-1], strict=False))
        same = min(len(self._run), len(ids) - 1)
        same = next((at for at, (mine, came) in pairs if mine != came), same)
        try:
            self._cache.crop(same - len(self._run))
        except RuntimeError:  # some of its blocks cannot go back so far: it reads all again
            self._cache, same = DynamicCache(config=self._model.config), 0
        del self._run[same:]


def _keeping(model: Any, n_rows: int) -> dict[str, int]:
    """Run the head for the last rows alone: over a whole prompt its output takes gigabytes."""
    return {"logits_to_keep": n_rows} if model._supports_logits_to_keep() else {}
