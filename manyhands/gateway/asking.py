"""A caller's JSON as requests to the swarm: one for each choice.

In: a checked body, the ids of its prompts. Out: `GenerationRequest`s in which nothing is left open.
What the caller leaves out is the model's own (its generation config), as with `generate`.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from manyhands.asking import SEED_BITS
from manyhands.gateway.asked import Drawn, Extension
from manyhands.gateway.catalogue import Served
from manyhands.gateway.faults import ApiError
from manyhands.gateway.formats import grammar_of
from manyhands.gateway.grants import Caller
from manyhands.gateway.policy import Policy
from manyhands.gateway.prompts import too_long
from manyhands.gateway.residency import limits_of
from protocol.errors import ManyhandsError
from protocol.grammar import Grammar
from protocol.profile import Profile
from protocol.sampling import SamplingParams
from scheduler.request import WAIT_S, GenerationRequest
from scheduler.wanted import Goal

SEED_RANGE = 2**64
ROOM_WAIT_S = 30.0  # an HTTP caller hears 503 then, whose Retry-After its own timeout fits better
SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)


def requests_for(
    served: Served,
    prompts: Sequence[Sequence[int]],
    asked: Drawn,
    *,
    max_tokens: int,
    timeout_s: float,
    caller: Caller,
    policy: Policy,
    param: str = "prompt",
    grammar: Grammar | None = None,
    pooling: str = "",
) -> list[GenerationRequest]:
    """`n` requests for each prompt, in order.

    Args:
        max_tokens: where the caller names no limit; it gives way to the context.
        timeout_s: at most, and where the caller names none.
        caller: whose key says where it may be served; only callers of the same group begin where
            each other's answers ended.
        policy: where data of which class may go.
        param: what to call the prompt.
        grammar: what the answer has to be, where the caller's own format does not say.
        pooling: how one vector is made of each prompt, where that is the answer.

    Raises:
        ApiError: a prompt does not fit the context, the limits make no sense, or are wider than
            those of the key.
    """
    more = asked.manyhands or Extension()
    sampling = _sampling(served, asked)
    seed = secrets.randbits(SEED_BITS) if asked.seed is None else asked.seed % SEED_RANGE
    group = _salted(caller.group, asked.cache_salt)
    grammar = grammar or grammar_of(asked)
    try:
        limits = limits_of(more, caller, policy)
        profile = str(Profile.parse(more.profile)) if more.profile else None
    except ManyhandsError as error:
        raise ApiError("invalid_value", str(error), param="manyhands") from error
    manifest = served.model.manifest
    requests = []
    for ids in prompts:
        limit = _fitting(served, len(ids), asked.limit, max_tokens, param)
        for choice in range(asked.n or 1):
            requests.append(
                GenerationRequest(
                    manifest=manifest.digest,
                    n_blocks=manifest.n_blocks,
                    prompt_ids=tuple(ids),
                    max_tokens=limit,
                    sampling=SamplingParams(**sampling, seed=seed, choice=choice),
                    min_tokens=asked.min_tokens or 0,
                    stop_token_ids=tuple(asked.stop_token_ids or ()),
                    grammar=grammar,
                    logprobs=asked.n_likeliest,
                    prompt_logprobs=asked.n_prompt_likeliest,
                    pooling=pooling,
                    stops=tuple(asked.stop),
                    ignore_eos=bool(asked.ignore_eos),
                    timeout_s=min(timeout_s, more.timeout_s or timeout_s),
                    wait_s=WAIT_S if more.wait_s is None else more.wait_s,
                    room_wait_s=ROOM_WAIT_S if more.wait_s is None else more.wait_s,
                    profile=profile,
                    limits=limits,
                    goal=Goal(more.prefer),
                    adapter=served.adapter,
                    reuse_prefix=more.reuse_prefix,
                    prefix_group=group,
                    spares=more.spares,
                    drafter=more.drafter,
                    model=served.model.asked,
                    vocab_size=manifest.vocab_size,
                    hidden_size=manifest.hidden_size,
                )
            )
    return requests


def _sampling(served: Served, asked: Drawn) -> dict[str, Any]:
    chosen = dict(served.tokenizer.generation_defaults)
    for name in SAMPLING:
        if (value := getattr(asked, name)) is not None:
            chosen[name] = value
    if chosen.get("top_k") == -1:
        chosen["top_k"] = 0  # both say: all
    if asked.logit_bias:
        chosen["logit_bias"] = _by_id(asked.logit_bias)
    return chosen


def _by_id(biases: Mapping[str, float]) -> dict[int, float]:
    """
    Raises:
        ApiError: a name is no token id.
    """
    if any(not (name.isascii() and name.isdecimal()) for name in biases):
        raise ApiError("invalid_value", "logit_bias names token ids", param="logit_bias")
    return {int(name[:12]): bias for name, bias in biases.items()}


def _salted(group: str, salt: str | None) -> str:
    return group if salt is None else hashlib.sha256(f"{group}\0{salt}".encode()).hexdigest()


def _fitting(served: Served, n_prompt: int, limit: int | None, default: int, param: str) -> int:
    """How many tokens to ask for; only the default gives way to the context.

    Raises:
        ApiError: both together do not fit.
    """
    room = served.max_positions - n_prompt
    wanted = 1 if limit is None else limit
    if wanted > room:
        raise too_long(served, n_prompt, wanted, param)
    return min(room, default) if limit is None else limit
