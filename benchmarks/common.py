"""What the swarm benchmarks share: a random model, a local swarm of processes, a client, a table.

Everything is measured side by side in one run, so that a busy machine slows both sides alike.
"""

import os
import platform
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from manyhands.asking import open_client
from manyhands.home import Home
from manyhands.local import LocalSwarm
from manyhands.models import Model, find_model
from protocol.messages import Span
from scheduler import Client, GenerationRequest
from tests.checkpoints import write_checkpoint
from tests.local_swarm import add_byte_tokenizer

LLAMA_12_768 = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 16384,
    "max_position_embeddings": 2048,
}


@contextmanager
def random_llama(**sizes: int) -> Iterator[Path]:
    """A random Llama of 12 blocks x 768, 16 k vocabulary, fp32, in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="manyhands-bench-") as scratch:
        directory = Path(scratch) / "llama-12x768"
        yield add_byte_tokenizer(write_checkpoint(directory, **(LLAMA_12_768 | sizes)))


@asynccontextmanager
async def local_swarm(
    model: str, spans: Sequence[Span], *, price_per_mtl: int = 0
) -> AsyncIterator[tuple[LocalSwarm, Client, Model]]:
    """`serve` processes, one torch thread each, and a client that found them all."""
    with tempfile.TemporaryDirectory(prefix="manyhands-bench-") as scratch:
        swarm = LocalSwarm(model, spans, Path(scratch), price_per_mtl=price_per_mtl, threads=1)
        home = Home.at(Path(scratch) / "client")
        async with swarm.running(), open_client(home, swarm.addresses) as client:
            yield swarm, client, find_model(model)


def request(
    model: Model, prompt: Sequence[int], n_tokens: int, *, reuse_prefix: bool = False
) -> GenerationRequest:
    """Greedy, exactly `n_tokens` long; unless said otherwise, all of it is run."""
    return GenerationRequest(
        manifest=model.manifest.digest,
        n_blocks=model.manifest.n_blocks,
        prompt_ids=tuple(prompt),
        max_tokens=n_tokens,
        ignore_eos=True,
        reuse_prefix=reuse_prefix,
    )


def machine() -> str:
    """What ran this."""
    import torch

    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{cpu}, {os.cpu_count()} cores; {versions}"


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table, to read and to paste."""
    print("| " + " | ".join(heading) + " |")
    print("|" + "---|" * len(heading))
    for row in rows:
        print("| " + " | ".join(row) + " |")
