"""The models behind a gateway, by the names that callers use for them.

In: models that were found, aliases. Out: for a name in a request, the model, its tokenizer and the
adapter that is meant. `BASE:ADAPTER` names an adapter; `NAME@DIGEST` pins the model, so that a
caller who means these weights gets no others; `default` is the first model where nothing else is.
"""

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from manyhands.gateway.aliases import AliasFile
from manyhands.gateway.faults import ApiError
from manyhands.models import Model
from protocol.adapter_names import is_adapter
from protocol.errors import UsageError
from protocol.text import Tokenizer

log = logging.getLogger(__name__)

DEFAULT = "default"
DIGEST_CHARS = 8  # at least so many pin a model
MAX_SHOWN_CHARS = 100


@dataclass(frozen=True, slots=True)
class Served:
    """A model, and what turns its text into ids. `adapter`: the one that was asked for."""

    model: Model
    tokenizer: Tokenizer
    adapter: str = ""

    @property
    def id(self) -> str:
        return self.model.name

    @property
    def digest(self) -> str:
        return self.model.manifest.digest.hex()

    @property
    def pinned(self) -> str:
        return f"{self.id}@{self.digest[:DIGEST_CHARS]}"

    @property
    def max_positions(self) -> int:
        return self.model.manifest.max_positions


class Catalogue:
    """
    Raises:
        UsageError: two models have one name, or an alias leads nowhere.
    """

    def __init__(
        self,
        served: Sequence[Served],
        aliases: Mapping[str, str] | None = None,
        file: AliasFile | None = None,
    ) -> None:
        """file: names that count before the others, and may change at any time."""
        self._served = {each.id: each for each in served}
        if len(self._served) < len(served):
            raise UsageError("two of the models have the same name", hint="serve one of them")
        self._first = served[0].id
        self._aliases: dict[str, str] = {}
        for alias, name in {DEFAULT: self._first, **(aliases or {})}.items():
            self.point(alias, name)
        self._given, self._file = dict(self._aliases), file
        if file is not None:
            self._point_all(file.names)

    @property
    def served(self) -> tuple[Served, ...]:
        return tuple(self._served.values())

    @property
    def aliases(self) -> Mapping[str, str]:
        """As they are now."""
        if self._file is not None and self._file.refresh():
            self._aliases = dict(self._given)
            self._point_all(self._file.names)
        return self._aliases

    @property
    def names(self) -> tuple[str, ...]:
        """All that callers can ask for, adapters apart."""
        return (*self._served, *self.aliases)

    def point(self, alias: str, name: str) -> None:
        """Let `alias` mean this model from now on; answers that run go on as they began.

        Raises:
            UsageError: there is no such model, or the alias is a model's own name.
        """
        if alias in self._served:
            raise UsageError(f"{alias} is a model, so it cannot be an alias of one")
        if self._named(name) is None:
            known = ", ".join(self._served)
            raise UsageError(f"no model here is called {name[:100]!r}", hint=f"there are: {known}")
        self._aliases[alias] = name

    def _point_all(self, names: Mapping[str, str]) -> None:
        for alias, name in names.items():
            try:
                self.point(alias, name)
            except UsageError as error:
                log.warning("an alias is passed over", extra={"alias": alias, "why": str(error)})
            else:
                log.info("an alias", extra={"alias": alias, "model": name})

    def find(self, name: str) -> Served:
        """What a caller means by `name`.

        Raises:
            ApiError: model_not_found, with the names that are most like it.
        """
        if (found := self._resolved(name)) is not None:
            return found
        base, colon, adapter = name.rpartition(":")
        if colon and is_adapter(adapter) and (found := self._resolved(base)) is not None:
            return Served(found.model, found.tokenizer, adapter)
        names = self.names
        near = difflib.get_close_matches(name[:MAX_SHOWN_CHARS], names, n=3, cutoff=0.5) or names
        raise ApiError(
            "model_not_found",
            f"no model {name[:MAX_SHOWN_CHARS]!r} is served here; there is {', '.join(near[:8])}",
            param="model",
        )

    def _resolved(self, name: str) -> Served | None:
        return self._named(self.aliases.get(name, name))

    def _named(self, name: str) -> Served | None:
        if name in self._served:
            return self._served[name]
        base, at, digest = name.rpartition("@")
        found = self._served.get(base) if at and len(digest) >= DIGEST_CHARS else None
        return found if found and found.digest.startswith(digest.lower()) else None


def served_of(models: Sequence[Model]) -> list[Served]:
    """Each with its tokenizer.

    Raises:
        BadModel: one has none.
    """
    return [Served(model, Tokenizer.from_directory(model.directory)) for model in models]
