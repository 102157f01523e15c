"""The directory of adapters that a node serves: what is put there is loaded, what leaves is not.

In: `HOME/node/adapters/NAME/`, each as PEFT writes it, looked at every two seconds. Out: the
engine's adapters, kept alike, and word to the swarm when they change. A bad one is told of once and
left alone until its files change; it never ends the node. Sessions that have an adapter keep it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from node.engine.adapter_files import files_state
from node.engine.adapters import Adapters
from protocol.adapter_names import is_name
from protocol.errors import ManyhandsError

log = logging.getLogger(__name__)

LOOK_S = 2.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """A directory as it was last looked at, and what came of it."""

    state: str  # of its files
    loaded: str  # name@digest, empty when it was refused or is loaded for another reason too
    refused: str


class AdapterShelf:
    """Looks after one directory, which need not exist yet."""

    def __init__(self, directory: Path | None, adapters: Adapters) -> None:
        self._directory, self._adapters = directory, adapters
        self._seen: dict[str, _Seen] = {}

    @property
    def refused(self) -> Mapping[str, str]:
        """Why some of what lies there is not served, by name."""
        return {name: seen.refused for name, seen in self._seen.items() if seen.refused}

    @property
    def seen(self) -> Mapping[str, str]:
        """Which state of the files, by name, is loaded or refused."""
        return {name: seen.state for name, seen in self._seen.items()}

    async def run(self, changed: Callable[[], None]) -> None:
        """Look again and again; `changed` is called when the engine's adapters are others."""
        while self._directory is not None:
            await asyncio.sleep(LOOK_S)
            try:
                if await asyncio.to_thread(self.look):
                    changed()
            except Exception:  # a mistake of ours here must not cost the sessions that run
                log.exception("the directory of adapters cannot be looked at")

    def look(self) -> bool:
        """Load and unload until the engine has what lies there; whether anything changed."""
        before = self._adapters.names
        there = self._there()
        for name in self._seen.keys() - there.keys():
            self._drop(self._seen.pop(name))
        for name, state in there.items():
            earlier = self._seen.get(name)
            if earlier is None or earlier.state != state:
                self._seen[name] = self._load(name, state)
                if earlier is not None and earlier.loaded != self._seen[name].loaded:
                    self._drop(earlier)
        return self._adapters.names != before

    def _there(self) -> dict[str, str]:
        """Every adapter's directory with the state of its files."""
        if self._directory is None or not self._directory.is_dir():
            return {}
        found = sorted(self._directory.iterdir())
        return {p.name: files_state(p) for p in found if is_name(p.name) and p.is_dir()}

    def _load(self, name: str, state: str) -> _Seen:
        assert self._directory is not None
        before = self._adapters.names
        try:
            loaded = self._adapters.load(self._directory / name, name)
        except (ManyhandsError, OSError) as error:
            log.warning("an adapter is not served", extra={"adapter": name, "reason": str(error)})
            return _Seen(state, "", str(error))
        log.info("adapter loaded", extra={"adapter": loaded})
        return _Seen(state, "" if loaded in before else loaded, "")

    def _drop(self, seen: _Seen) -> None:
        if seen.loaded in self._adapters.names:
            self._adapters.unload(seen.loaded)
            log.info("adapter unloaded", extra={"adapter": seen.loaded})
