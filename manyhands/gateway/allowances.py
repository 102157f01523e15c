"""How much of what its key allows a caller has left: a minute's requests and tokens, and a budget.

In: who asks, for how many tokens, and at the end what was used and what it cost. Out: leave to go
on, or a refusal that says when to come back; and the numbers for OpenAI's `x-ratelimit-*` headers.
A minute's allowance refills all the time, as a bucket does (RFC 2697). An answer takes its prompt
and its longest length, and gives back what it did not use; one that is larger than a full bucket
waits for a full one and leaves a debt. Of a budget, an answer holds more than it is expected to
cost, on disk, and cannot cost more than it holds: see `secure`.
"""

import asyncio
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from manyhands.gateway.faults import ApiError
from manyhands.gateway.grants import Caller, Per
from manyhands.gateway.spending import Hold, Spending, Spent, today, until_tomorrow_s

MINUTE_S = 60.0
HEADROOM = 2  # for a chain that is run again, or a dearer one when the first is lost
LEAST_SHARE = 64  # of what is left: where little is asked now, more may be asked after a loss
HELD_AGAIN_S = 1.0  # answers end all the time
CLOSE_S = 0.001  # answers to clocks that are coarse


@dataclass(slots=True)
class Bucket:
    """Holds a minute's worth, and refills."""

    size: int
    level: float
    at_s: float

    def fill(self, size: int, now_s: float) -> None:
        """size: as it is now, which the operator may have changed."""
        self.level = min(size, self.level + (now_s - self.at_s) * size / MINUTE_S)
        self.size, self.at_s = size, now_s

    def wait_s(self, amount: float) -> float:
        """Until so much could be taken."""
        return max(0.0, (min(amount, self.size) - self.level) * MINUTE_S / self.size)


@dataclass(slots=True)
class State:
    """Of one key."""

    requests: Bucket | None = None
    tokens: Bucket | None = None
    held_ncr: int = 0  # by answers that run


@dataclass(slots=True)
class Taken:
    """What answers of one request hold; give it back with `settle`, once."""

    allowances: "Allowances"
    caller: Caller
    n_tokens: int
    held_ncr: int
    model: str
    day: str  # on which it counts, though it may end on the next
    hold: Hold | None = field(default=None, init=False)  # the same on disk
    is_settled: bool = field(default=False, init=False)

    def settle(self, n_tokens: int, cost_ncr: int, n_answers: int = 1) -> None:
        """n_tokens: of prompts and answers, as far as they were used."""
        if not self.is_settled:
            self.is_settled = True
            self.allowances.settled(self, n_tokens, cost_ncr, n_answers)


class Allowances:
    """Of all keys of a gateway."""

    def __init__(
        self,
        spending: Spending | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        day: Callable[[], str] = today,
    ) -> None:
        self.spending = spending or Spending()
        self._clock_s, self._day = clock_s, day
        self._states: dict[str, State] = {}
        self._dearest: dict[str, float] = {}  # ncr for a token, by model

    def request(self, caller: Caller) -> None:
        """
        Raises:
            ApiError: no request is left of this minute.
        """
        bucket = self._requests(caller)
        if bucket is None:
            return
        if bucket.level < 1:
            raise _limited("requests", bucket, 1)
        bucket.level -= 1

    def take(
        self, caller: Caller, n_tokens: int, model: str = "", could_cost_ncr: int | None = None
    ) -> Taken:
        """Leave for answers of up to `n_tokens`, prompts included.

        Args:
            model: whose prices count, where they are known by what was paid alone.
            could_cost_ncr: the most that they can cost, where that is known.

        Raises:
            ApiError: not now, or not any more.
        """
        if could_cost_ncr is None:
            could_cost_ncr = math.ceil(n_tokens * self._dearest.get(model, 0.0))
        held_ncr = self._affordable(caller, n_tokens, could_cost_ncr)
        bucket = self._tokens(caller)
        if bucket is not None:
            if bucket.wait_s(n_tokens) > CLOSE_S:
                raise _limited("tokens", bucket, n_tokens)
            bucket.level -= n_tokens
        if held_ncr:
            self._state(caller).held_ncr += held_ncr
        return Taken(self, caller, n_tokens, held_ncr, model, self._day())

    async def secure(self, taken: Taken, expected_ncr: int | None) -> int | None:
        """Hold on disk what answers may cost, before they begin, so that all together, over several
        gateways and their deaths, never cost more than the budget. To that much they are bound.

        Args:
            expected_ncr: what they are expected to cost; None: nobody can tell, so that they get
                all that is left.

        Returns:
            What they may cost; None where there is no budget.

        Raises:
            ApiError: the budget has no room for them, or none before others have ended.
        """
        caller, budget = taken.caller, taken.caller.grant.budget_ncr
        if budget is None:
            return None
        state, spent = self._state(caller), self._spent(caller, taken.day)
        held_by_others = state.held_ncr - taken.held_ncr
        left = budget - spent.ncr - held_by_others
        expected = left if expected_ncr is None else expected_ncr
        if left <= 0 and expected_ncr == 0:
            return 0  # what costs nothing needs no room, and is bound to that
        if expected > left or left <= 0:
            raise self._no_budget(caller, spent, held_by_others, expected)
        ncr = min(left, max(taken.held_ncr, HEADROOM * expected, left // LEAST_SHARE))
        state.held_ncr += ncr - taken.held_ncr
        taken.held_ncr = ncr
        taken.hold = Hold(secrets.token_hex(16), caller.id, taken.day, ncr)
        is_daily = caller.grant.budget_per is Per.DAY
        lack = await asyncio.wrap_future(self.spending.hold(taken.hold, budget, is_daily=is_daily))
        if lack > 0:
            raise self._no_budget(caller, spent, lack, expected)
        return ncr

    def settled(self, taken: Taken, n_tokens: int, cost_ncr: int, n_answers: int) -> None:
        """See `Taken.settle`."""
        caller = taken.caller
        if (bucket := self._tokens(caller)) is not None:
            bucket.level = min(bucket.size, bucket.level + taken.n_tokens - n_tokens)
        if taken.held_ncr:
            self._state(caller).held_ncr -= taken.held_ncr
        if cost_ncr and n_tokens:
            known = self._dearest.get(taken.model, 0.0)
            self._dearest[taken.model] = max(known, cost_ncr / n_tokens)
        if caller.id and (n_answers or taken.hold):
            self.spending.add(
                caller.id, Spent(cost_ncr, n_tokens, n_answers), taken.day, taken.hold
            )

    def headers(self, caller: Caller) -> dict[str, str]:
        """As OpenAI names them; nothing for a key without such limits."""
        told: dict[str, str] = {}
        buckets = {"requests": self._requests(caller), "tokens": self._tokens(caller)}
        for name, bucket in buckets.items():
            if bucket is not None:
                told[f"x-ratelimit-limit-{name}"] = str(bucket.size)
                told[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.level)))
                told[f"x-ratelimit-reset-{name}"] = in_words(bucket.wait_s(bucket.size))
        return told

    def _affordable(self, caller: Caller, n_tokens: int, could_cost: int) -> int:
        """What to hold of the budget for these.

        Raises:
            ApiError: insufficient_quota.
        """
        budget = caller.grant.budget_ncr
        if budget is None:
            return 0
        spent = self._spent(caller, self._day())
        held = self._state(caller).held_ncr
        left = budget - spent.ncr - held
        if could_cost == 0 or could_cost <= left:
            return could_cost
        raise self._no_budget(caller, spent, held, could_cost)

    def _spent(self, caller: Caller, day: str) -> Spent:
        is_daily = caller.grant.budget_per is Per.DAY
        return self.spending.on(caller.id, day if is_daily else "")

    def _no_budget(self, caller: Caller, spent: Spent, held: int, could_cost: int) -> ApiError:
        """For ever, till tomorrow, or until what others hold is settled."""
        budget, is_daily = caller.grant.budget_ncr or 0, caller.grant.budget_per is Per.DAY
        span = "of this day (UTC)" if is_daily else "in all"
        used = f"this key's budget {span} is {budget} ncr, of which {spent.ncr} are spent"
        if held > 0 and max(1, could_cost) <= budget - spent.ncr:
            message = (
                f"{used} and {held} held by answers that run; this could cost {could_cost} more"
            )
            return ApiError("rate_limit_exceeded", message, retry_after_s=HELD_AGAIN_S)
        more = f"; this answer could cost {could_cost} more" if could_cost else ""
        return ApiError(
            "insufficient_quota",
            used + more,
            retry_after_s=math.ceil(until_tomorrow_s()) if is_daily else None,
        )

    def _requests(self, caller: Caller) -> Bucket | None:
        size = caller.grant.requests_per_minute
        if size is None:
            return None
        state = self._state(caller)
        state.requests = self._filled(state.requests, size)
        return state.requests

    def _tokens(self, caller: Caller) -> Bucket | None:
        size = caller.grant.tokens_per_minute
        if size is None:
            return None
        state = self._state(caller)
        state.tokens = self._filled(state.tokens, size)
        return state.tokens

    def _filled(self, bucket: Bucket | None, size: int) -> Bucket:
        now_s = self._clock_s()
        if bucket is None:
            return Bucket(size, size, now_s)
        bucket.fill(size, now_s)
        return bucket

    def _state(self, caller: Caller) -> State:
        return self._states.setdefault(caller.id, State())  # as many as there are keys


def _limited(what: str, bucket: Bucket, amount: int) -> ApiError:
    wait_s = bucket.wait_s(amount)
    message = (
        f"this key may use {bucket.size} {what} a minute, {max(0, math.floor(bucket.level))} are "
        f"left and this takes {amount}; try again in {in_words(wait_s)}"
    )
    return ApiError("rate_limit_exceeded", message, retry_after_s=wait_s)


def in_words(seconds: float) -> str:
    """As OpenAI spells times: `120ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{seconds:.3g}s"
