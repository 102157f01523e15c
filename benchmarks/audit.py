"""Whether audits tell cheating work from honest work: fingerprints of the built-in model's rows.

Honest nodes mix batches, cuts of prompts, threads, prefill and decode, and kernels: none of
10,000 windows may be refused by the profile that is shipped. A node that serves blocks 2:5 with
4-bit weights under a bfloat16 profile, skips a block, runs a kernel that loses some columns, or
replays an earlier session's rows, is looked at in 5 % of its windows, drawn after it has committed:
it has to be caught within the number of windows planned for 99 % (95 of them) in 96 of 100
seeded runs, and in all within twice that. Beside it: what the largest values of a window (TOPLOC)
would have told. Run: python benchmarks/audit.py [--windows 10000] [--dtype bfloat16]
"""

import argparse
import hmac
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import common
import numpy as np
import torch

from manyhands.calibrating.measuring import LENGTH, N_PROMPT, SESSIONS, Sample, borders_of
from manyhands.models import find_model
from node.engine import ShardEngine, StepItem, load_shard
from node.recomputing import Again, run_again
from node.ways import all_ways, run_way, write_text
from protocol.errors import ConfigError
from protocol.fingerprint import compare, sketch
from protocol.fp_profile import FingerprintProfile, find_profile
from protocol.windows import Window, windows_of
from protocol.wire import Rows, encode, wire_format

RATE, SENSITIVITY = 0.05, 0.95
PLANNED = math.ceil(math.log(0.01) / math.log(1 - RATE * SENSITIVITY))
RUNS, ENTRY, STOP = 100, 2, 5  # the hop that cheats has blocks 2:5
LOST_COLUMNS = 16
TOP = 128  # largest values of a window


def through(engine: ShardEngine, rows: torch.Tensor, entry: int, stop: int) -> torch.Tensor:
    """Rows of one session from position 0 on, through these blocks."""
    lease = engine.open(len(rows), entry=entry, exit=stop)
    return engine.step([StepItem(lease, 0, rows)])[0].hidden


def quantized(small: ShardEngine) -> Callable[[ShardEngine, torch.Tensor], torch.Tensor]:
    return lambda engine, rows: through(small, rows, ENTRY, STOP)


def skips_a_block(engine: ShardEngine, rows: torch.Tensor) -> torch.Tensor:
    return through(engine, through(engine, rows, ENTRY, ENTRY + 1), ENTRY + 2, STOP)


def loses_columns(engine: ShardEngine, rows: torch.Tensor) -> torch.Tensor:
    """In one block, what it adds to the last columns is lost, as by a kernel with a wrong tail."""
    rows = through(engine, rows, ENTRY, ENTRY + 1)
    right = through(engine, rows, ENTRY + 1, ENTRY + 2).clone()
    right[:, -LOST_COLUMNS:] = rows[:, -LOST_COLUMNS:]
    return through(engine, right, ENTRY + 2, STOP)


@dataclass
class Seen:
    """One kind of node's windows: (what it claimed, what an auditor finds)."""

    claims: list[tuple[Rows, Rows]] = field(default_factory=list)

    def add(self, claimed: Rows, right: Rows) -> None:
        for start, stop in windows_of(0, len(claimed)):
            self.claims.append((claimed[start:stop], right[start:stop]))

    def refused(self, profile: FingerprintProfile) -> list[bool]:
        limits = profile.at(STOP)
        return [
            limits.judge(compare(Window(0, sketch(claimed).tobytes()), right)) is False
            for claimed, right in self.claims
        ]


def cheats(
    engine: ShardEngine, small: ShardEngine | None, texts: Sequence[tuple[int, ...]]
) -> dict[str, Seen]:
    """Windows of each kind of cheat, whose hops before it are honest."""
    ways = {"skipped block": skips_a_block, "corrupt kernel": loses_columns}
    if small is not None:
        ways["4-bit weights"] = quantized(small)
    found = {name: Seen() for name in (*ways, "stale outputs")}
    stale: Rows | None = None
    for ids in texts:
        right = run_again(engine, ids[:-1], [ENTRY, STOP]).rows
        came = torch.from_numpy(right[ENTRY]).to(engine.dtype)
        for name, way in ways.items():
            found[name].add(way(engine, came).float().numpy(), right[STOP])
        if stale is not None:
            found["stale outputs"].add(stale, right[STOP])
        stale = right[STOP]
    return found


def windows_until_caught(refused: Sequence[bool], seed: int) -> int:
    """How many windows the cheat earned before one that was audited gave it away."""
    chance, nonce = random.Random(seed), seed.to_bytes(8, "big")
    for n in range(1, 100 * PLANNED):
        beacon = hmac.digest(nonce, n.to_bytes(8, "big"), "sha256")  # known once it has committed
        if int.from_bytes(beacon, "big") < RATE * 2**256 and chance.choice(refused):
            return n
    return 100 * PLANNED


def honest_windows(
    engine: ShardEngine, profile: FingerprintProfile, n_windows: int
) -> tuple[Sample, int, int]:
    """(distances of the last texts, how many windows were judged, how many refused)."""
    wire, borders = wire_format(profile.execution.split("/")[2]), borders_of(engine.n_blocks)
    judged = refused = 0
    seed, began = 10_000, time.monotonic()
    while judged < n_windows:
        texts = write_text(engine, SESSIONS, N_PROMPT, LENGTH, seed)
        again = [run_again(engine, ids[:-1], borders) for ids in texts]
        for way in all_ways(2):
            sample = Sample()
            for ran, right in zip(
                run_way(engine, texts, N_PROMPT, borders, wire, way), again, strict=True
            ):
                sample.add(ran, right)
            for border, told in sample.distances.items():
                judged += len(told)
                refused += sum(profile.at(border).judge(each) is False for each in told)
        print(f"{judged} honest windows, {time.monotonic() - began:.0f} s", flush=True)
        seed += SESSIONS
    return sample, judged, refused


def largest_values(claimed: Rows, right: Rows) -> tuple[int, float]:
    """TOPLOC: how many exponents of the right rows' largest values differ, and how far mantissas
    of the others are apart, in the mean."""
    bits = [
        np.frombuffer(encode(wire_format("bfloat16"), rows), "<u2") for rows in (claimed, right)
    ]
    places = np.argsort(np.abs(right), axis=None)[-TOP:]
    mine, theirs = (each[places].astype(np.int64) for each in bits)
    same = (mine >> 7) == (theirs >> 7)
    apart = np.abs((mine & 127) - (theirs & 127))[same]
    return int((~same).sum()), float(apart.mean()) if same.any() else math.inf


def compared(engine: ShardEngine, found: dict[str, Seen], texts: Sequence[tuple[int, ...]]) -> None:
    """What each fingerprint refuses of a cheat when it refuses no honest window."""
    honest, wire = Seen(), wire_format(str(engine.dtype).removeprefix("torch."))
    again: list[Again] = [run_again(engine, ids[:-1], [STOP]) for ids in texts]
    for way in all_ways(2):
        ran = run_way(engine, texts, N_PROMPT, [STOP, engine.n_blocks], wire, way)
        for one, other in zip(ran, again, strict=True):
            honest.add(one.rows[STOP], other.rows[STOP])

    def sketched(pair: tuple[Rows, Rows]) -> float:
        return compare(Window(0, sketch(pair[0]).tobytes()), pair[1]).mean

    worst = max(map(sketched, honest.claims))
    top = [largest_values(*pair) for pair in honest.claims]
    most, farthest = max(n for n, _ in top), max(apart for _, apart in top)
    rows = []
    for name, seen in found.items():
        by_sketch = np.mean([sketched(pair) > worst for pair in seen.claims])
        told = [largest_values(*pair) for pair in seen.claims]
        by_top = np.mean([n > most or apart > farthest for n, apart in told])
        rows.append([name, f"{by_sketch:.1%}", f"{by_top:.1%}"])
    common.table(["windows told from every honest one", "sketches", "largest values"], rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--windows", type=int, default=10_000)
    parser.add_argument("--dtype", default="bfloat16")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = find_model("tiny")
    directory = model.directory
    engine = load_shard(directory, None, dtype=asked.dtype)
    profile = find_profile(model.manifest.digest, str(engine.profile))
    assert profile is not None, "one is shipped for the built-in model"
    found: dict[str, Seen] = {}
    try:
        small = load_shard(directory, None, dtype=asked.dtype, quantize="4bit")
        eighth = load_shard(directory, None, dtype=asked.dtype, quantize="int8")
    except ConfigError as error:
        print(f"no quantized weights here: {error}")
        small = eighth = None
    texts = write_text(engine, 2 * SESSIONS, N_PROMPT, LENGTH, 77)
    found = cheats(engine, small, texts)
    print(f"\n{common.machine()}; {profile.execution}, {profile.name}\n")
    rows, holds = [], True
    for name, seen in found.items():
        refused = seen.refused(profile)
        counts = [windows_until_caught(refused, seed) for seed in range(RUNS)]
        in_time = sum(n <= PLANNED for n in counts)
        holds &= in_time >= 96 and max(counts) <= 2 * PLANNED
        share = sum(refused) / len(refused)
        rows.append([name, f"{share:.1%}", f"{in_time} of {RUNS}", f"{max(counts)}"])
    common.table(["cheat", "windows refused", f"caught in {PLANNED}", "latest"], rows)
    if eighth is not None:
        found["8-bit weights"] = cheats(engine, eighth, texts)["4-bit weights"]
        refused = found["8-bit weights"].refused(profile)
        print(f"\n8-bit weights (no goal): {sum(refused) / len(refused):.1%} refused")
    print()
    compared(engine, found, texts[:SESSIONS])
    _, judged, refused_honest = honest_windows(engine, profile, asked.windows)
    holds &= refused_honest == 0
    print(f"\nhonest windows refused: {refused_honest} of {judged}; goals hold: {holds}")


if __name__ == "__main__":
    main()
