"""What debts among strangers cost a node: python -m benchmarks.debts [--entries N]

Times are of CPU, in one process, so that they mean the same on a busy machine. Entries are made,
not signed: what is measured is how they are summed.
"""

import argparse
import gc
import tempfile
import time
from pathlib import Path
from random import Random

from ledger.debts import Debts
from ledger.reader import FILE_NAME, LedgerReader
from ledger.store import Store
from ledger.trust import MAX_EDGES, Trust

N_PEERS, EPOCH, PER_EPOCH = 1000, 20_000, 50_000
N_ASKED = 200  # strangers who ask for a session


def written(directory: Path, n: int, chance: Random) -> list[bytes]:
    """A log of `n` tabs that one account did for others, without receipts and without a tree."""
    peers, us = [chance.randbytes(32) for _ in range(N_PEERS)], bytes(32)
    store = Store.open(directory / FILE_NAME, create=True)
    row, tab = chance.randbytes, chance.randrange
    with store.transaction(durable=False):
        store.execute("INSERT INTO meta VALUES ('account', ?)", (us,))
        store.execute_many(
            "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (i, row(32), row(16), EPOCH + i // PER_EPOCH, peers[i % N_PEERS], us, b"",
                 tab(1000), bytes(32))
                for i in range(n)
            ),
        )  # fmt: skip
    store.close()
    return peers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    n = parser.parse_args().entries
    chance = Random(1)
    print("| what | measured (CPU) | goal | holds |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        written(Path(home), n, chance)
        with LedgerReader.read(Path(home)) as reader:
            began = time.process_time()
            sums = reader.sums()
            reader.sums(from_epoch=EPOCH + (n - 1) // PER_EPOCH)  # and what today had
            took_s = time.process_time() - began
    text = f"{took_s:.2f} s"
    print(f"| debts of {n:,} tabs at a node's start | {text} | 3 s | {_holds(took_s <= 3)} |")

    debts, keys = Debts([bytes(32)], sums), list(sums)
    edges = {(chance.choice(keys), chance.choice(keys)): tab + 1 for tab in range(MAX_EDGES)}
    began = time.process_time()
    trust = Trust(edges | dict.fromkeys(((k, bytes(32)) for k in keys), 500), debts.ours)
    print(f"| what others say, weighed on a thread | {_ms(began):.0f} ms | - | |")
    worst_ms = 0.0
    gc.collect()
    gc.freeze()  # what a million made entries left is not the question's to collect
    for key in keys[:N_ASKED]:
        began = time.process_time()
        trust.lends(key, 1_000_000)
        worst_ms = max(worst_ms, _ms(began))
    holds = _holds(worst_ms <= 5)
    print(
        f"| the slowest question of {N_ASKED}, on the loop | {worst_ms:.1f} ms | 5 ms | {holds} |"
    )


def _ms(began: float) -> float:
    return 1000 * (time.process_time() - began)


def _holds(does: bool) -> str:
    return "yes" if does else "**no**"


if __name__ == "__main__":
    main()
