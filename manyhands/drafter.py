"""A model to guess with, for `serve --draft-model`: found, fetched, loaded, and checked.

In: the command line, read, and the model that is served, of which no weights need be here yet. Out:
a `DraftModel`, or why it cannot guess for that one, said before anything large is fetched. Its ids
have to mean the same; how many more of them each has room for does not matter.
"""

from functools import partial
from typing import TYPE_CHECKING

from manyhands import machine
from manyhands.devices import choose_device, look
from manyhands.home import Home
from manyhands.licences import require_accepted
from manyhands.loads import Loads
from manyhands.models import Model, find_model
from manyhands.party import Party
from manyhands.preparing import Wanted
from manyhands.progress import say, shown
from protocol.errors import UsageError
from protocol.messages import Span
from protocol.text import Tokenizer

if TYPE_CHECKING:
    from node.draft_model import DraftModel
    from node.engine import ShardEngine


def load_drafter(
    wanted: Wanted, served: Model, home: Home, party: Party, loads: Loads
) -> "DraftModel | None":
    """None: nobody asked for one.

    Raises:
        UsageError: it cannot guess for what is served; nothing large was fetched by then.
        ManyhandsError: it is not here, is damaged, or does not fit beside the caches of sessions.
    """
    if not wanted.draft_model:
        return None
    with shown(wanted.draft_model) as progress:
        model = find_model(wanted.draft_model, progress=progress)
    require_accepted(home, model.manifest, accepts=wanted.accept_licence)
    n_ids = n_alike(model, served)
    _require_end(wanted, served)
    engine = _load(wanted, model, party, loads)
    say(f"{model.name}: {engine.weights_bytes / 2**20:,.0f} MiB of weights to guess with")
    say(f"{model.name} guesses ahead for answers that end here")

    from node.draft_model import DraftModel

    return DraftModel(engine, min(engine.vocab_size, n_ids))


def n_alike(model: Model, served: Model) -> int:
    """How many ids mean the same to both.

    Raises:
        UsageError: they mean different things.
    """
    mine, theirs = (Tokenizer.from_directory(m.directory) for m in (model, served))
    if mine.vocabulary != theirs.vocabulary:
        raise UsageError(
            f"{model.name} cannot guess for {served.name}: its tokens are other ones",
            hint="--draft-model: a small model of the same family, with the same tokenizer",
        )
    return mine.vocab_size


def _require_end(wanted: Wanted, served: Model) -> None:
    """Answers are drawn where the last block is, and guessed at there."""
    n_blocks = served.manifest.n_blocks
    if wanted.span is not None and wanted.span.stop < n_blocks:
        raise UsageError(
            f"--draft-model guesses where answers end, and none end at blocks {wanted.span} "
            f"of {n_blocks}",
            hint=f"--span A:{n_blocks}, or --span auto; or leave --draft-model out",
        )


def _load(wanted: Wanted, model: Model, party: Party, loads: Loads) -> "ShardEngine":
    """All of it, fetched where it lacks."""
    from manyhands.planning import forecast
    from node.engine import load_shard

    device = choose_device(wanted.device, look(), require_gpu=wanted.require_gpu).device
    device, _, _ = device.partition(",")
    share, span = wanted.share(device), Span(0, model.manifest.n_blocks)
    told, tensors = forecast(
        model,
        span,
        dtype=wanted.dtype,
        device=device,
        quantize="none",
        kv_cache_bytes=wanted.kv_cache,
        share=share,
    )
    told.require()
    loads.bring(model, tensors, party=party, join=wanted.join)
    with shown(model.name) as progress:
        work = partial(
            load_shard,
            model.directory,
            span,
            dtype=wanted.dtype,
            device=device,
            kv_cache_bytes=wanted.kv_cache,
            share=share,
            progress=progress,
        )
        return machine.gently(work) if wanted.gently else work()
