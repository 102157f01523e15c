"""A model to guess with, for `serve --draft-model`: found, fetched, loaded, and checked.

In: the command line, read. Out: a `DraftModel`, or why it cannot guess for the model that is
served. Its ids have to mean the same; how many more of them each has room for does not matter.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

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


@dataclass(frozen=True, slots=True)
class Drafter:
    """Loaded, and beside nothing yet."""

    model: Model
    engine: "ShardEngine"

    def beside(self, served: Model) -> "DraftModel":
        """
        Raises:
            UsageError: their ids mean different things.
        """
        from node.draft_model import DraftModel

        mine, theirs = (Tokenizer.from_directory(m.directory) for m in (self.model, served))
        if mine.vocabulary != theirs.vocabulary:
            raise UsageError(
                f"{self.model.name} cannot guess for {served.name}: its tokens are other ones",
                hint="--draft-model: a small model of the same family, with the same tokenizer",
            )
        say(f"{self.model.name} guesses ahead for answers that end here")
        return DraftModel(self.engine, min(self.engine.vocab_size, mine.vocab_size))


def load_drafter(wanted: Wanted, home: Home, party: Party, loads: Loads) -> Drafter | None:
    """Before spans are chosen: what it takes is no longer free then. None: nobody asked for one.

    Raises:
        ManyhandsError: it is not here, is damaged, or does not fit beside the caches of sessions.
    """
    if not wanted.draft_model:
        return None
    from manyhands.planning import forecast
    from node.engine import load_shard

    with shown(wanted.draft_model) as progress:
        model = find_model(wanted.draft_model, progress=progress)
    require_accepted(home, model.manifest, accepts=wanted.accept_licence)
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
        engine = load_shard(
            model.directory,
            span,
            dtype=wanted.dtype,
            device=device,
            kv_cache_bytes=wanted.kv_cache,
            share=share,
            progress=progress,
        )
    say(f"{model.name}: {engine.weights_bytes / 2**20:,.0f} MiB of weights to guess with")
    return Drafter(model, engine)
