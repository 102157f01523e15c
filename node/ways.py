"""One and the same work in the different ways that honest nodes do it, to see how far rows differ.

In: an engine, ids, a way: how many sessions share a step, how a prompt is cut, how many threads,
which kernels. Out: rows at borders between blocks and the tokens that are drawn behind them, as a
chain of nodes would have sent and drawn them. For calibration and for benchmarks; nothing here is
on a node's path.
"""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from node.engine import Lease, ShardEngine, StepItem
from node.rows import from_wire, to_wire
from protocol.sampling import SamplingParams, sample
from protocol.wire import Rows, WireFormat, decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """batch: sessions in one step. chunk: of a prompt, in one step. onednn: its kernels, or
    torch's own. threads: 0 leaves them as they are."""

    batch: int = 1
    chunk: int = 256
    threads: int = 0
    onednn: bool = True


@dataclass(frozen=True, slots=True)
class Ran:
    """One session: all ids but the last were run. rows: by the border in front of which they came.
    drawn: by position, what sampling gave here (if that was asked)."""

    ids: tuple[int, ...]
    n_prompt: int
    rows: dict[int, Rows]
    drawn: dict[int, int]


def all_ways(threads: int) -> list[Way]:
    """What is tried: batches, cuts, threads and kernels, each with each."""
    counts = sorted({1, max(1, threads)})
    combined = itertools.product((1, 3, 8), (7, 256), counts, (True, False))
    return [Way(batch=b, chunk=c, threads=t, onednn=k) for b, c, t, k in combined]


def params_of(index: int) -> SamplingParams:
    """How session `index` is drawn: greedily or at a temperature, by turns."""
    return SamplingParams(temperature=0.8 * (index % 2), seed=index)


def write_text(
    engine: ShardEngine, n_sessions: int, n_prompt: int, length: int, seed: int
) -> list[tuple[int, ...]]:
    """What the model itself goes on to write after prompts drawn by chance: `length` ids each."""
    chance = np.random.default_rng(seed)
    texts = [chance.integers(0, engine.vocab_size, n_prompt).tolist() for _ in range(n_sessions)]
    leases = [engine.open(length) for _ in texts]
    for at in range(n_prompt, length):
        start = 0 if at == n_prompt else at - 1
        items = [
            StepItem(lease, start, torch.tensor(ids[start:]).to(engine.device), 1)
            for lease, ids in zip(leases, texts, strict=True)
        ]
        for index, result in enumerate(engine.step(items)):
            assert result.logits is not None, "only a whole model writes"
            logits, ids = result.logits[-1].float().cpu().numpy(), texts[index]
            warm = SamplingParams(temperature=1.0, seed=seed + index)
            ids.append(sample(logits, warm, ids, n_prompt=n_prompt, position=at))
    return [tuple(ids) for ids in texts]


def run_way(
    engine: ShardEngine,
    texts: Sequence[tuple[int, ...]],
    n_prompt: int,
    borders: Sequence[int],
    wire: WireFormat,
    way: Way,
    *,
    draws: bool = False,
) -> list[Ran]:
    """Prompts in chunks, then row by row as if they were drawn now.

    Rows cross every border as they would on the wire. Texts are of one length.
    """
    with _kernels(way):
        return [
            ran
            for at in range(0, len(texts), way.batch)
            for ran in _Batch(engine, texts[at : at + way.batch], borders, wire).run(
                n_prompt, way.chunk, draws=draws
            )
        ]


class _Batch:
    """Sessions that share every step, each with a lease per hop."""

    def __init__(
        self,
        engine: ShardEngine,
        texts: Sequence[tuple[int, ...]],
        borders: Sequence[int],
        wire: WireFormat,
    ) -> None:
        self._engine, self._texts, self._wire = engine, texts, wire
        self._hops = list(zip([0, *borders], borders, strict=False))
        length = len(texts[0])
        self._leases: list[list[Lease]] = [
            [engine.open(length, entry=entry, exit=stop) for _ in texts]
            for entry, stop in self._hops
        ]
        self._rows: list[dict[int, list[Rows]]] = [{stop: [] for stop in borders} for _ in texts]
        self._drawn: list[dict[int, int]] = [{} for _ in texts]

    def run(self, n_prompt: int, chunk: int, *, draws: bool) -> list[Ran]:
        length = len(self._texts[0]) - 1
        cuts = [*range(0, n_prompt, chunk), *range(n_prompt, length), length]
        for start, stop in itertools.pairwise(cuts):
            self._step(start, stop, n_prompt, draws=draws and stop >= n_prompt)
        return [
            Ran(ids, n_prompt, {stop: np.concatenate(parts) for stop, parts in rows.items()}, drawn)
            for ids, rows, drawn in zip(self._texts, self._rows, self._drawn, strict=True)
        ]

    def _step(self, start: int, stop: int, n_prompt: int, *, draws: bool) -> None:
        engine = self._engine
        rows = [torch.tensor(ids[start:stop]).to(engine.device) for ids in self._texts]
        for (_, border), leases in zip(self._hops, self._leases, strict=True):
            is_end = border == engine.n_blocks
            items = [
                StepItem(lease, start, part, int(draws and is_end))
                for lease, part in zip(leases, rows, strict=True)
            ]
            results = engine.step(items)
            sent = [bytes(to_wire(self._wire, result.hidden)) for result in results]
            for index, data in enumerate(sent):
                told = decode(self._wire, data, engine.hidden_size)
                self._rows[index][border].append(told)
            rows = [
                from_wire(self._wire, data, engine.hidden_size, engine.dtype, engine.device)
                for data in sent
            ]
            for index, result in enumerate(results):
                if result.logits is not None:
                    logits = result.logits[-1].float().cpu().numpy()
                    ids, params = self._texts[index][:stop], params_of(index)
                    drawn = sample(logits, params, ids, n_prompt=n_prompt, position=stop)
                    self._drawn[index][stop] = drawn


@contextmanager
def _kernels(way: Way) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(way.threads or threads)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on views, and on graphics cards that are not here
            with torch.backends.mkldnn.flags(enabled=way.onednn):
                yield
    finally:
        torch.set_num_threads(threads)
