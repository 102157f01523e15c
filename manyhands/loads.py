"""What a node has fetched and loaded since it started, for whoever graphs it."""

import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from manyhands.fetching import bring_weights, missing_bytes
from manyhands.models import Model
from manyhands.party import Party
from protocol.address import Address


@dataclass(slots=True)
class Loads:
    """By model. load_s: of the last span that was loaded."""

    fetched_bytes: Counter[str] = field(default_factory=Counter)
    load_s: dict[str, float] = field(default_factory=dict)

    def bring(
        self, model: Model, tensors: Collection[str], *, party: Party, join: Sequence[Address] = ()
    ) -> None:
        """`bring_weights`, counted; also what came before it failed.

        Raises:
            ManyhandsError: as that does.
        """
        missing = missing_bytes(model, tensors)
        try:
            bring_weights(model, tensors, party=party, join=join)
        finally:
            self.fetched_bytes[model.name] += max(0, missing - missing_bytes(model, tensors))

    @contextmanager
    def timed(self, model: Model) -> Iterator[None]:
        """The load is done in here."""
        began_s = time.monotonic()
        yield
        self.load_s[model.name] = time.monotonic() - began_s
