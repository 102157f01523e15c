"""Loading a span for `serve`: at the start, and again when the node moves.

In: the command line, read, and a model whose weights are here. Out: an engine that was proved, and
what a node says and serves of it. What is found on the way is told on stderr.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from manyhands import machine
from manyhands.models import Model
from manyhands.preparing import Wanted
from manyhands.progress import say, shown
from protocol.messages import Span

if TYPE_CHECKING:
    from node.engine import ShardEngine
    from node.files import SharedFile
    from node.serving import Model as NodeModel


def load(
    wanted: Wanted,
    model: Model,
    span: Span,
    device: str,
    *,
    gently: bool = False,
    check: Callable[[], None] = lambda: None,
) -> "ShardEngine":
    """The span with its adapters, proved.

    Args:
        gently: others are served on this machine meanwhile.
        check: called again and again; what it raises ends the load.

    Raises:
        ManyhandsError: it cannot be served here.
    """
    from node.engine import load_shard

    with shown(f"{model.name} {span}") as report:

        def progress(phase: str, fraction: float) -> None:
            check()
            report(phase, fraction)

        work = partial(
            load_shard,
            model.directory,
            span,
            dtype=wanted.dtype,
            device=device,
            quantize=wanted.quantize,
            cache=_span_cache(),
            kv_cache_bytes=wanted.kv_cache,
            share=wanted.share(device),
            progress=progress,
        )
        engine = machine.gently(work) if gently else work()
    say(f"{engine.weights_bytes / 2**20:,.0f} MiB of weights, run as {engine.profile}")
    for name, directory in wanted.adapters:
        say(f"adapter {engine.adapters.load(directory, name)}")
    return engine


def describe(
    wanted: Wanted, model: Model, engine: "ShardEngine", *, capacity_blocks: int
) -> "NodeModel":
    """What goes with a loaded span: its speed, which is measured now, how it ends answers, files.

    `capacity_blocks`: how much of the model this node could serve, 0 where it stays with this span.
    """
    from node.serving import Model as NodeModel
    from node.throughput import measure
    from protocol.text import Tokenizer

    return NodeModel(
        name=wanted.name or model.name,
        digest=model.manifest.digest,
        files=model.small_files(),
        tokenizer=Tokenizer.from_directory(model.directory) if engine.heads else None,
        speeds=measure(engine),
        capacity_blocks=capacity_blocks,
        weights=_shared(model) if wanted.share_weights else {},
        signature=model.signature,
    )


def _shared(model: Model) -> "dict[str, SharedFile]":
    """What other nodes may fetch from here: what lies here whole, or was checked when it came."""
    from node.files import SharedFile

    if model.store is not None:
        return {file: SharedFile(*found) for file, found in model.store.shared().items()}
    return {
        file.name: SharedFile(model.directory / file.name, ((0, file.n_bytes),))
        for file in model.manifest.files
        if file.name.endswith(".safetensors")
    }


def _span_cache() -> Path:
    """Where quantized spans are kept: they can be made again, so it is a cache."""
    import platformdirs

    return platformdirs.user_cache_path("manyhands") / "spans"
