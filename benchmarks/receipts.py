"""What the receipt path costs, on this machine: python -m benchmarks.receipts

Per voucher: make (client) and check (provider), end to end with CBOR and Ed25519. Per receipt:
verify all of it, and append it durably. Per token: what a window's statement and voucher cost a
hop, next to a decode step of the given milliseconds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from ledger import (
    Ledger,
    Offer,
    PayerTab,
    ProviderTab,
    Rates,
    Usage,
    Wanted,
    accept_terms,
    open_receipt,
    propose_terms,
)
from ledger.receipts import Receipt
from ledger.tab import STATE_POSITIONS
from protocol.signing import OPEN_SWARM_ID, Envelope, SigningKey

CLIENT, PROVIDER = SigningKey.from_seed(b"c" * 32), SigningKey.from_seed(b"p" * 32)
MAKE_BUDGET_US, CHECK_BUDGET_US = 200, 300
NOW_MS = 1_790_000_000_000


def open_tab(nonce: bytes) -> tuple[PayerTab, ProviderTab]:
    offer = Offer(
        provider=PROVIDER.public_key,
        offer_no=1,
        manifest=sha256(b"model").digest(),
        layer_lo=0,
        layer_hi=12,
        exec_profile="float32/none/float32",
        rates=Rates(1000, 2000, 500, 10, 1000, 5, 3000),
        credit_window=10**9,
        max_ctx=4096,
        not_before_ms=0,
        expires_ms=NOW_MS * 2,
    ).seal(OPEN_SWARM_ID, PROVIDER)
    wanted = Wanted(
        chain_id=bytes(16),
        payer=CLIENT.public_key,
        payee=PROVIDER.public_key,
        manifest=sha256(b"model").digest(),
        layer_lo=0,
        layer_hi=12,
        salt_commit=bytes(32),
        client_nonce=nonce,
    )
    proposed = propose_terms(
        offer, wanted, PROVIDER, OPEN_SWARM_ID, provider_nonce=bytes(16), expires_ms=NOW_MS * 2
    )
    terms = accept_terms(offer, proposed, wanted, CLIENT, OPEN_SWARM_ID, now_ms=NOW_MS)
    return (
        PayerTab(offer, terms, CLIENT, OPEN_SWARM_ID),
        ProviderTab(offer, terms, PROVIDER, OPEN_SWARM_ID),
    )


def usages() -> Iterator[Usage]:
    """A tab that grows by 16 positions at a time."""
    usage, position = Usage.opened(12, 4096, 60), 0
    while True:
        usage = usage.after(position, position + 16, 64, 3072)
        position += 16
        yield usage


def timed_us(work: Callable[[], object]) -> float:
    begun = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - begun) / 1000


def measure_windows(n: int) -> dict[str, list[float]]:
    """Microseconds of each half of a window, over `n` windows of one tab."""
    payer, provider = open_tab(bytes(16))
    state: list[float] = []
    hear: list[float] = []
    make: list[float] = []
    check: list[float] = []
    sent: list[bytes] = []
    for usage, _ in zip(usages(), range(n), strict=False):
        meter = usage.meter()

        def make_statement(meter=meter) -> None:  # type: ignore[no-untyped-def]
            roots = {"in_root": bytes(32), "out_root": bytes(32)}
            envelope = provider.make_statement(meter, epoch=0, last_step=0, now_ms=NOW_MS, **roots)
            sent.append(envelope.encode())

        state.append(timed_us(make_statement))
        hear.append(
            timed_us(lambda: payer.check_statement(Envelope.decode(sent[-1]), now_ms=NOW_MS))
        )
        make.append(
            timed_us(lambda m=meter: sent.append(payer.make_voucher(m, now_ms=NOW_MS).encode()))
        )
        check.append(
            timed_us(lambda: provider.accept_voucher(Envelope.decode(sent[-1]), now_ms=NOW_MS))
        )
    return {"make statement": state, "check statement": hear, "make voucher": make,
            "check voucher": check}  # fmt: skip


def closed_receipt(nonce: bytes) -> Receipt:
    payer, provider = open_tab(nonce)
    meter = next(usages()).meter()
    payer.check_statement(
        provider.make_statement(
            meter, epoch=0, last_step=0, in_root=bytes(32), out_root=bytes(32), now_ms=NOW_MS
        ),
        now_ms=NOW_MS,
    )
    provider.accept_voucher(payer.make_voucher(meter, now_ms=NOW_MS, final=True), now_ms=NOW_MS)
    return provider.receipt()


def measure_receipts(n: int) -> dict[str, list[float]]:
    receipts = [closed_receipt(i.to_bytes(16, "big")) for i in range(n)]
    verify = [timed_us(lambda r=r: open_receipt(r, OPEN_SWARM_ID)) for r in receipts]
    with (
        tempfile.TemporaryDirectory() as home,
        Ledger.open(Path(home), CLIENT, OPEN_SWARM_ID) as ledger,
    ):
        save = [timed_us(lambda r=r: ledger.save_tab(r)) for r in receipts]
        append = [timed_us(lambda r=r: ledger.append(r)) for r in receipts]
    return {"verify receipt": verify, "save open tab": save, "append receipt": append}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--receipts", type=int, default=100)
    parser.add_argument("--step-ms", type=float, default=28.0, help="one decode step, 12 x 768")
    given = parser.parse_args()

    medians: dict[str, float] = {}
    print(f"{'':<18}{'median us':>12}{'p95 us':>12}{'budget us':>12}")
    budgets = {"make voucher": MAKE_BUDGET_US, "check voucher": CHECK_BUDGET_US}
    for name, times in {
        **measure_windows(given.windows),
        **measure_receipts(given.receipts),
    }.items():
        medians[name] = statistics.median(times)
        p95 = statistics.quantiles(times, n=20)[-1]
        budget = budgets.get(name)
        print(f"{name:<18}{medians[name]:>12.0f}{p95:>12.0f}{budget or '':>12}")

    window_us = sum(medians[name] for name in ("make statement", "check statement", "make voucher"))
    window_us += medians["check voucher"] + 2 * medians["save open tab"]
    share = window_us / (STATE_POSITIONS * given.step_ms * 1000)
    print(f"\nboth sides of a window of {STATE_POSITIONS} tokens: {window_us:.0f} us,")
    print(f"ratio to its decode time at {given.step_ms:g} ms per token: {share:.6f} (goal 0.02)")


if __name__ == "__main__":
    main()
