"""What the whole ledger costs a live swarm: of its decoding time, and of its bytes.

Four real nodes of a random Llama 12 x 768 and a client, over sockets, in one process; statements
every 32 tokens. Every call into the books of either side (meters, roots of rows, fingerprints,
statements, vouchers, their checks, what goes to disk, receipts that are filed at the end) is timed
in seconds of its own thread, and set against all else that the process computed meanwhile, so that
a busy machine changes little. What timing itself takes, at some thirty calls a token, is measured
and taken off. Agreeing on terms, once for each hop, is not in it. Answers with and without
fingerprints take turns. Goals: <= 1 % of decode time; at hidden 4096 in bfloat16, from the sizes of
these objects, <= 0.5 % of the bytes. Run: python benchmarks/ledger_live.py
"""

import asyncio
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import wraps
from pathlib import Path
from typing import Any

import common

from ledger.fingerprints import OpeningRequest
from ledger.log import Ledger
from ledger.meter import Rates
from node.fingerprints import Fingerprints
from node.metering import SessionMeter
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from scheduler import Client
from scheduler.settlement import ClientTab
from tests.local_swarm import Swarm, swarm, whole

SPANS = [(0, 3), (3, 6), (6, 9), (9, 12)]
WINDOW, TOKENS, N_PROMPT, ROUNDS = 32, 160, 16, 5
EMPTY_CALLS = 20_000
CREDIT_NCR = 100_000  # what these nodes lend on a tab; a quarter of it is a window
RATE = CREDIT_NCR // 4 * 10**6 // (WINDOW * 3)  # for a million token-layers
ROW_4096 = 4096 * 2
BOOKS: dict[type, tuple[str, ...]] = {
    SessionMeter: (
        *("may_run", "count", "statement", "pay", "will_see_in", "will_see_out", "see_out"),
        *("use_rest", "begin_epoch", "shelve", "statement_due", "receipt"),
    ),
    Fingerprints: ("_go_on",),
    ClientTab: ("hear", "voucher", "derived"),
    Ledger: ("save_tabs", "append_all"),
}


class Clock:
    """Seconds of any thread within the books; a call inside another is counted once."""

    _own_s = 0.0  # of a call that does nothing

    def __init__(self) -> None:
        self.spent_s, self._inside = 0.0, threading.local()
        self.has_prints = False  # whose turn it is
        self.of_call: Counter[tuple[str, bool]] = Counter()  # seconds
        empty = self.timed(lambda: None, "")
        for _ in range(EMPTY_CALLS):
            empty()
        self._own_s, self.spent_s = self.spent_s / EMPTY_CALLS, 0.0

    def timed(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        @wraps(call)
        def run(*args: Any, **named: Any) -> Any:
            if getattr(self._inside, "is_in", False):
                return call(*args, **named)
            self._inside.is_in = True
            time.thread_time()  # cold after a forward: that is not the books
            began = time.thread_time()
            try:
                return call(*args, **named)
            finally:
                took_s = time.thread_time() - began - self._own_s
                self.spent_s += took_s
                self.of_call[name, self.has_prints] += took_s
                self._inside.is_in = False

        return run

    def install(self) -> None:
        for kind, names in BOOKS.items():
            for name in names:
                if hasattr(kind, name):
                    told = f"{kind.__name__}.{name}"
                    setattr(kind, name, self.timed(getattr(kind, name), told))


async def answered(built: Swarm, client: Client, clock: Clock) -> tuple[float, float, Any]:
    """(CPU seconds of books per token, of all per token, the generation)."""
    request = built.request(range(1, N_PROMPT + 1), max_tokens=TOKENS, ignore_eos=True)
    books_s, all_s = clock.spent_s, time.process_time()
    generation = client.generate(request)
    await whole(generation)
    books_s, all_s = clock.spent_s - books_s, time.process_time() - all_s
    return books_s / TOKENS, all_s / TOKENS, generation


async def measure(directory: Path, scratch: Path) -> None:
    clock = Clock()
    clock.install()
    rates = Rates(prefill_tl=RATE, decode_tl=RATE)
    async with AsyncExitStack() as stack:
        sides: dict[bool, tuple[Swarm, Client]] = {}
        for has in (True, False):
            built = await stack.enter_async_context(
                swarm(directory, scratch / str(has), lambda i: GrpcTransport(i, OPEN_SWARM_ID))
            )
            await built.start(*SPANS, rates=rates, fingerprints=has)
            sides[has] = built, await stack.enter_async_context(built.client())
            await answered(*sides[has], clock)  # warm
        told: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        clock.of_call.clear()
        for _ in range(ROUNDS):
            for has, side in sides.items():
                clock.has_prints = has
                books_s, all_s, generation = await answered(*side, clock)
                told[has].append((books_s, all_s))
                if has:
                    last = generation
        report(told)
        by_call(clock)
        await sizes(last, sides[True])


def report(told: dict[bool, list[tuple[float, float]]]) -> None:
    rows = []
    for has, runs in told.items():
        books, total = (common.median([run[i] for run in runs]) for i in (0, 1))
        share = common.median([books_s / (all_s - books_s) for books_s, all_s in runs])
        name = "with fingerprints" if has else "without"
        rows.append([name, f"{books * 1e6:.0f}", f"{total * 1e6:.0f}", f"{share:.2%}"])
    print(f"\n{common.machine()}\n")
    common.table(["four hops and the client, us of CPU a token", "books", "all", "share"], rows)


def by_call(clock: Clock) -> None:
    us = {at: seconds / TOKENS / ROUNDS * 1e6 for at, seconds in clock.of_call.items()}
    names = sorted({name for name, _ in us}, key=lambda name: -us.get((name, True), 0.0))
    rows = [[name, *(f"{us.get((name, has), 0):.1f}" for has in (True, False))] for name in names]
    print()
    common.table(["of that, us a token", "with fingerprints", "without"], rows)


async def sizes(generation: Any, side: tuple[Swarm, Client]) -> None:
    """What a window of 32 tokens adds on a hop's wires, at hidden 4096."""
    held = next(iter(generation.commitments.values()))
    tab = generation._settlement.tabs[held.peer]
    statement, voucher = len(held.envelope.encode()), len(tab.receipt().voucher.encode())
    asked = OpeningRequest(held.terms_oid, (1,)).encode()
    shelf = next(
        n.node.standing.shelf for n in side[0].nodes if n.node.identity.peer_id == held.peer
    )
    opened = len(asked) + len(await shelf.handle(side[1].identity.peer_id, asked))
    audited = 0.05 * opened
    share = (statement + voucher + audited) / (WINDOW * ROW_4096)
    print(
        f"\nstatement {statement} B, voucher {voucher} B, a window opened {opened} B, 5 % of them: "
        f"{share:.2%} of {WINDOW} rows of {ROW_4096} B"
    )


def main() -> None:
    import torch

    torch.set_num_threads(1)
    with common.random_llama() as directory, tempfile.TemporaryDirectory() as scratch:
        asyncio.run(measure(directory, Path(scratch)))


if __name__ == "__main__":
    main()
