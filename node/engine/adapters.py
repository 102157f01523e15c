"""The adapters of a loaded span: many at once, and each row of a step with its own or with none.

In: directories as PEFT writes them, at any time. Out: adapters that sessions hold, and modules
whose forwards add what belongs to the rows at hand. Modules are wrapped in place, so every way to
run the span runs its adapters; while none is loaded nothing is wrapped, and a step without any
costs a wrapped module one look.

`load` and `unload` may be called beside the thread that runs steps: a session holds its adapter,
not a name, so what is unloaded goes on for those who have it, and takes no new ones.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

from torch import Tensor

from node.engine.adapter_files import check_name, read_adapter
from node.engine.adapter_rows import Adapter, Packing
from node.engine.adapter_weights import read_weights
from node.engine.weights import LoadedSpan
from protocol.adapter_names import MAX_ADAPTERS, pinned
from protocol.errors import PeerRefused, UsageError


class Adapters:
    """Those of one engine, by `name@digest`."""

    def __init__(self, loaded: LoadedSpan) -> None:
        self._loaded = loaded
        self._by_name: dict[str, Adapter] = {}
        self._alive: weakref.WeakSet[Adapter] = weakref.WeakSet()  # unloaded ones too, while used
        self._wrapped: dict[str, tuple[Any, Any]] = {}  # by path: a module, its own forward if any
        self._lock = RLock()
        self._packing: Packing | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What sessions may ask for."""
        return tuple(sorted(self._by_name))

    @property
    def n_bytes(self) -> int:
        """What they take in memory; unloaded ones count while sessions use them."""
        return sum(adapter.n_bytes for adapter in tuple(self._alive))

    @property
    def n_wrapped(self) -> int:
        """How many modules look for adapters now."""
        return len(self._wrapped)

    def get(self, name: str) -> Adapter:
        """Raises PeerRefused when `name@digest` is not here."""
        adapter = self._by_name.get(name)
        if adapter is None:
            here = ", ".join(self.names)[:200] or "none"
            raise PeerRefused("", f"adapter {name[:80]} is not here", hint=f"adapters here: {here}")
        return adapter

    def load(self, directory: Path, name: str) -> str:
        """Take the adapter in `directory` into service; returns `name@digest`.

        Raises:
            UsageError: it cannot be called that, or too many are loaded.
            BadAdapter: it is damaged, needs what is not served, or was made for another base.
            OutOfMemory: it does not fit.
        """
        check_name(name)
        files = read_adapter(directory)
        named = pinned(name, files.sha256)
        with self._lock:
            if named in self._by_name:
                return named
            if len(self._by_name) >= MAX_ADAPTERS:
                raise UsageError(
                    f"{MAX_ADAPTERS} adapters are loaded, and a node announces no more",
                    hint="unload one first: manyhands adapters unload NAME",
                )
            pairs = read_weights(files, self._loaded)
            adapter = Adapter(named, pairs, adapts_head=any(map(self._is_head, pairs)))
            self._alive.add(adapter)
            weakref.finalize(adapter, _unwrap_unused, weakref.ref(self)).atexit = False
            for key in adapter.pairs:
                self._wrap(key)
            self._by_name[named] = adapter
        return named

    def unload(self, name: str) -> None:
        """Take no new session for `name@digest`; its memory is free when the last one ends.

        Raises:
            PeerRefused: it is not here.
        """
        with self._lock:
            self.get(name)
            del self._by_name[name]

    @contextmanager
    def applied(self, packing: Packing | None) -> Iterator[None]:
        """While this lasts, adapted modules add to their output what `packing` says."""
        self._packing = packing
        try:
            yield
        finally:
            self._packing = None

    def _wrap(self, key: str) -> None:
        if key in self._wrapped:
            return
        module, is_head = self._loaded.model.get_submodule(key), self._is_head(key)
        inner = module.forward

        def forward(x: Tensor) -> Tensor:
            output: Tensor = inner(x)
            if self._packing is not None:
                self._packing.add(key, x, output, is_head=is_head)
            return output

        self._wrapped[key] = module, vars(module).get("forward")
        module.forward = forward

    def _is_head(self, key: str) -> bool:
        model = self._loaded.model
        return model.get_submodule(key) is model.get_output_embeddings()

    def unwrap_unused(self) -> None:
        """Give modules their own forwards back where no adapter is left."""
        with self._lock:
            used = {key for adapter in tuple(self._alive) for key in adapter.pairs}
            for key in self._wrapped.keys() - used:
                module, own_forward = self._wrapped.pop(key)
                del module.forward
                if own_forward is not None:
                    module.forward = own_forward


def _unwrap_unused(adapters: "weakref.ref[Adapters]") -> None:
    if (alive := adapters()) is not None:
        alive.unwrap_unused()
