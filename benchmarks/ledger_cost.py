"""What the books cost beside the decoding they account for: one hop and its client, per token.

The whole receipt path of a priced session is run for 1,024 tokens as a hop and a client run it
(meter, frame roots, statements, checks, vouchers), beside decode steps of a random Llama 12 x 768
in the same process. Goal: <= 2 % of decode time at batch 1. Run: python benchmarks/ledger_cost.py
"""

import secrets
import statistics
import time
from pathlib import Path

import common

from ledger.meter import Rates
from node.engine import StepItem, load_shard
from node.metering import SessionMeter
from protocol.chain_actions import Stretch
from scheduler.client_tab import ClientTab
from tests.metered import opened

N_PROMPT, TOKENS, ROW_BYTES = 64, 1024, 768 * 4


def tabs() -> tuple[SessionMeter, ClientTab]:
    """Both ends of one middle hop's tab, whose prompt was run."""
    meter, tab = opened(
        Rates(prefill_tl=10**6, decode_tl=5 * 10**6, ctx_ktl=10**6, act_kib=10**6),
        1_200,
        n_prompt=N_PROMPT,
        capacity=N_PROMPT + TOKENS,
        row_bytes=ROW_BYTES,
        lent=10**9,
    )
    meter.will_see_in(0, bytes(ROW_BYTES * N_PROMPT))
    meter.will_see_out(0, bytes(ROW_BYTES * N_PROMPT))
    meter.count(0, N_PROMPT, N_PROMPT, 0)
    return meter, tab


def books_us() -> tuple[float, int]:
    """(microseconds per token on both sides together, vouchers made)."""
    meter, tab = tabs()
    row, vouchers = secrets.token_bytes(ROW_BYTES), 0
    began = time.thread_time()
    for position in range(N_PROMPT, N_PROMPT + TOKENS):
        assert meter.may_run(position, 1, N_PROMPT)
        meter.will_see_in(position, row)
        meter.count(position, 1, N_PROMPT, 0)
        meter.will_see_out(position, row)
        meter.see_out()
        if meter.statement_due():
            tab.hear(meter.statement())
            voucher = tab.voucher([Stretch(0, position + 1, N_PROMPT)])
            if voucher is not None:
                assert meter.pay(voucher)
                vouchers += 1
    return (time.thread_time() - began) / TOKENS * 1e6, vouchers


def decode_us(directory: Path) -> float:
    """One decode step through all 12 blocks, batch 1, one thread."""
    import torch

    torch.set_num_threads(1)
    engine = load_shard(directory, None, dtype="float32")
    lease = engine.open(256)
    engine.step([StepItem(lease, 0, torch.arange(1, 65), 1)])
    steps = []
    for position in range(64, 128):
        began = time.thread_time()
        engine.step([StepItem(lease, position, torch.tensor([5]), 1)])
        steps.append(time.thread_time() - began)
    return statistics.median(steps) * 1e6


def main() -> None:
    with common.random_llama() as directory:
        decode = decode_us(directory)
    rounds = [books_us() for _ in range(5)]
    books, vouchers = common.median([us for us, _ in rounds]), rounds[0][1]
    print(f"\n{common.machine()}\n")
    common.table(
        ["what", "us per token"],
        [
            ["decode, 12 blocks", f"{decode:.0f}"],
            [f"books of one hop, both sides, {vouchers} vouchers", f"{books:.0f}"],
            ["one hop's books / decode", f"{books / decode:.2%}"],
            ["four hops' books / decode", f"{4 * books / decode:.2%}"],
        ],
    )


if __name__ == "__main__":
    main()
