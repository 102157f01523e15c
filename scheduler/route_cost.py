"""What one token costs at one peer, in milliseconds, part by part.

In: an announcement, what the client believes beside it. Out: a `Cost`: what each block adds, and
what a visit adds however many blocks it runs. Routes are chosen by its sums, and people are shown
its parts. Links between peers are counted in `routing.py`.

But for `Goal.THROUGHPUT` a block costs what a step of it takes alone, and a visit what rows there
wait and share by the host's account of the last seconds; where it gives none, a block costs what a
step takes with all of the host's sessions in it. What a row waits for others, they wait for it
about as long, and their steps grow by it: that is counted too, since routes that mind it carry more
(the toll of Pigou 1920: without it all crowd onto the fastest hosts until these are as slow as the
others), of hosts that give no account as of others. So is a prompt's work. For `Goal.THROUGHPUT` it
costs the node's time that a row takes in a full batch, dearer the less of the node is left: lengths
that grow with load, whose shortest paths share the swarm's capacity as a maximum flow does (Garg
and Könemann, SIAM J. Comput. 2007).
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from protocol.announcements import Announcement
from scheduler.wanted import Goal, Wanted

VISIT_MS = 0.5  # framing, two event loops, a thread switch: of a host that has not measured it
UNMEASURED_BLOCK_MS = 2.0
UNMEASURED_PREFILL_US = 2_000  # of one row in one block
SHARE_PER_SESSION = 0.12  # batched sessions slow each other: 8 at once give 4.4 times one's tokens
FULL_BATCH = 8  # sessions, where no curve is announced
# Of a prompt's time, that each session of its host loses by it: beside prompts steps take up to 1.8
# times as long (node/schedule.py), and a session is at a host for about a sixth of its time.
LOST_BY_OTHERS = 0.15
NEARLY_FULL_MS = 2.0  # per token, where a session takes all KV room that is left: others want it
MOST_LOAD = 0.95
MOST_FIXED = 0.9  # of a step: blocks take some of it


Number = TypeVar("Number", float, NDArray[np.float64])


@dataclass(frozen=True, slots=True)
class Cost(Generic[Number]):
    """Milliseconds per token: at one peer, or in columns of one number per peer. Those per block
    first, then those of a visit.
    """

    compute_ms: Number
    price_ms: Number  # of a token of the answer, at the client's rate (`Goal.ms_per_ncr`)
    prompt_price_ms: Number  # of the prompt; over the answer
    prompt_ms: Number  # running the prompt, and what others lose by it; over the answer
    hop_ms: Number  # what a step takes however many blocks it runs, and what passing on takes
    queue_ms: Number  # for steps under way, and for others in the same step
    others_ms: Number  # what others wait for this session's rows
    backlog_ms: Number  # for prompts that came before; over the answer
    room_ms: Number
    fee_ms: Number  # the price of what is not counted by block: of any position; over the answer
    head_ms: Number  # the price of drawing a token
    extra_ms: Number  # risk, as the client judges it: failures it saw (`peer_record.py`)

    def parts(self) -> tuple[Number, ...]:
        """In the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @property
    def block_ms(self) -> Number:
        return self.compute_ms + self.price_ms + self.prompt_price_ms + self.prompt_ms

    @property
    def visit_ms(self) -> Number:
        queues_ms = self.queue_ms + self.others_ms + self.backlog_ms
        fees_ms = self.fee_ms + self.head_ms
        return self.hop_ms + queues_ms + self.room_ms + fees_ms + self.extra_ms

    def believed(
        self, wanted: Wanted, slowdown: Number, extra_ms: Number, room_ms: Number
    ) -> "Cost[Number]":
        """Of this very request, with what the client knows.

        Args:
            slowdown: by how much the peer's times are longer than announced.
        """
        prompts = wanted.n_prompt / wanted.n_answer  # positions run before, for each token after
        return replace(
            self,
            compute_ms=self.compute_ms * slowdown,
            prompt_price_ms=self.prompt_price_ms * prompts,
            fee_ms=self.fee_ms * (1 + prompts),
            prompt_ms=self.prompt_ms * slowdown * prompts,
            queue_ms=self.queue_ms * slowdown,
            others_ms=self.others_ms * slowdown,
            backlog_ms=self.backlog_ms * slowdown / wanted.n_answer,
            extra_ms=self.extra_ms + extra_ms,
            room_ms=room_ms,
        )


def announced_cost(peer: Announcement, wanted: Wanted) -> Cost[float]:
    """What a token costs at `peer` by its own word, with all the KV room one could wish for; of
    prompts, what one row takes, and what all take that wait. Silence saves nobody anything: what a
    peer does not say is read off what it does.
    """
    assert peer.span is not None
    is_batch = wanted.goal is Goal.THROUGHPUT
    measured = peer.measured
    is_told = measured.shared_us > 0 and not is_batch
    step_us = batched_us(peer) if is_batch else alone_us(peer) if is_told else shared_us(peer)
    # One more session makes them longer by its share.
    grows = (peer.n_sessions + 1) / max(1, peer.n_sessions)
    queue_ms = 0.0 if is_batch else (measured.queue_us + measured.shared_us) / 1000 * grows
    # Who does not tell what steps share has it in its step already; others have it twice, too.
    untold_ms = 0.0 if is_batch or is_told else (step_us - alone_us(peer)) / 1000
    fixed_us = step_us * min(MOST_FIXED, peer.measured.fixed_us / max(1.0, alone_us(peer)))
    row_ms = prefill_us(peer) / 1000
    price = wanted.price_at(peer)
    ms_per_ncr = wanted.goal.ms_per_ncr / 1e6
    return Cost(
        compute_ms=(step_us - fixed_us) / 1000 / len(peer.span),
        price_ms=price.decode * ms_per_ncr,
        prompt_price_ms=price.prefill * ms_per_ncr,
        prompt_ms=row_ms if is_batch else row_ms * (1 + LOST_BY_OTHERS * peer.n_sessions),
        hop_ms=visit_ms(peer) + fixed_us / 1000,
        queue_ms=queue_ms,
        others_ms=queue_ms + untold_ms,
        backlog_ms=0.0 if is_batch else measured.backlog_us / 1000,
        room_ms=0.0,
        fee_ms=price.besides * ms_per_ncr,
        head_ms=price.head * ms_per_ncr,
        extra_ms=0.0,
    )


def cost_of(
    peer: Announcement, wanted: Wanted, *, slowdown: float = 1.0, extra_ms: float = 0.0
) -> Cost[float]:
    """What a token of the session `wanted` costs at `peer`."""
    needed = peer.measured.position_bytes * wanted.n_positions
    room_ms = float(tightness_ms(np.array(needed), np.array(peer.kv_free_bytes)))
    return announced_cost(peer, wanted).believed(wanted, slowdown, extra_ms, room_ms)


def tightness_ms(needed_bytes: NDArray[Any], free_bytes: NDArray[Any]) -> NDArray[np.float64]:
    """What it costs to take so much of the KV room that peers have left."""
    share: NDArray[np.float64] = np.minimum(1.0, needed_bytes / np.maximum(free_bytes, 1))
    return NEARLY_FULL_MS * share**2


def visit_ms(peer: Announcement) -> float:
    """What a row's way through the host takes beside its step."""
    return peer.measured.visit_us / 1000 or VISIT_MS


def shared_us(peer: Announcement) -> float:
    """A decode step through the whole span, shared with the sessions there are now."""
    curve = peer.measured.decode_steps_us
    if curve:
        return _read_off(curve, peer.n_sessions + 1)
    return alone_us(peer) * (1 + SHARE_PER_SESSION * peer.n_sessions)


def batched_us(peer: Announcement) -> float:
    """The node's time for one row of a full batch through the span, dearer where it is busy."""
    curve = peer.measured.decode_steps_us or (
        (FULL_BATCH, round(alone_us(peer) * (1 + SHARE_PER_SESSION * (FULL_BATCH - 1)))),
    )
    row_us, size = min((us / size, size) for size, us in curve)
    busy = max(peer.measured.rows_per_s * row_us / 1e6, peer.n_sessions / (peer.n_sessions + size))
    return row_us / (1 - min(MOST_LOAD, busy))


def alone_us(peer: Announcement) -> float:
    """A decode step through the whole span of a session that has the peer to itself.

    Costs are read off the curve where there is one, and so is what the peer is held to: it might
    say one thing there, and another by `decode_us`. Who says nothing is held to what we assume.
    """
    assert peer.span is not None
    if curve := peer.measured.decode_steps_us:
        return _read_off(curve, 1)
    return peer.decode_us or UNMEASURED_BLOCK_MS * 1000 * len(peer.span)


def prefill_us(peer: Announcement) -> float:
    """What one row of a prompt takes in one block.

    Prefill that nobody measured takes a row no longer than decoding does in the fullest batch, nor
    longer than in the mix of both that the node has run lately; an idle node has run few.
    """
    assert peer.span is not None
    if peer.prefill_us_per_row:
        return peer.prefill_us_per_row / len(peer.span)
    steps_us = [us / size for size, us in peer.measured.decode_steps_us]
    steps_us += [peer.decode_us] if peer.decode_us else []
    row_us = min(steps_us, default=UNMEASURED_PREFILL_US * len(peer.span))
    rows_per_s = peer.measured.rows_per_s
    return (min(row_us, 1e6 / rows_per_s) if rows_per_s else row_us) / len(peer.span)


def _read_off(curve: Sequence[tuple[int, int]], size: int) -> float:
    """The time of a step of `size` rows, straight between two measured ones and beyond them."""
    if len(curve) == 1:
        known, us = curve[0]
        return us * (1 + SHARE_PER_SESSION * (size - 1)) / (1 + SHARE_PER_SESSION * (known - 1))
    after = min(max(1, bisect_left(curve, (size, 0))), len(curve) - 1)
    (low, low_us), (high, high_us) = curve[after - 1], curve[after]
    slope = max(0.0, (high_us - low_us) / (high - low))
    return max(1.0, low_us + slope * (size - low))
