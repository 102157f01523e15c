"""Reading an outlined span: each tensor once, when its turn comes, into the form it is kept in.

In: an `Outline`, and where its tensors lie. Out: transformers' own model with these tensors, or a
typed error for whatever the library made of them. What is made small is kept by `span_cache.py`;
whether it fits was asked before.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from node.engine.checkpoint import Checkpoint, Selection
from node.engine.outline import Outline
from node.engine.quantization import INT8, MADE_FORMS, Quantization, load_library
from node.engine.span_cache import SpanCache
from protocol.errors import BadModel, OutOfMemory
from protocol.profile import PLAIN

Progress = Callable[[str, float], None]
FAILURES = (ValueError, KeyError, TypeError, AttributeError, OSError, AssertionError, ImportError)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads an outlined span: from the cache where it was made small before, else its files."""

    checkpoint: Checkpoint
    outline: Outline
    quantization: Quantization
    dtype: torch.dtype
    device: str

    def read(self, selection: Selection, cache: Path | None, report: Progress) -> Any:
        """The span's model, from the tensors it needs."""
        if self.quantization.name in MADE_FORMS:
            load_library()
        if self.quantization.made != PLAIN:
            model = self._small(selection, cache, report)
        else:
            with self._opened(selection) as found:
                model = self._model(found, self._expanding(), placed=self.quantization.is_kept)
        if self.quantization.name == INT8:
            from node.engine.quantizing import with_whole_rows

            return with_whole_rows(model, self.dtype)
        return model

    def _small(self, selection: Selection, cache: Path | None, report: Progress) -> Any:
        """Made small now, or before."""
        from node.engine.quantizing import library_config, stored_config

        made = self.quantization.made
        settings = (made, self.outline.part, self.outline.block_prefix, self.dtype)
        span, files = self.outline.span, selection.files
        kept = SpanCache.of(cache, self.checkpoint, span, made, self.dtype, files)
        stored = copy.deepcopy(self.outline.config)
        stored.quantization_config = stored_config(*settings).to_dict()
        model = kept.read(lambda tensors: self._model(tensors, stored, placed=True))
        if model is not None:
            return model
        report("making weights small", 0.0)
        with self._opened(selection) as found:
            how = library_config(*settings)
            model = self._model(found, self.outline.config, placed=True, quantization_config=how)
        kept.write(model.state_dict)
        return model

    @contextmanager
    def _opened(self, selection: Selection) -> Iterator[Mapping[str, Any]]:
        with self._translated(), selection.tensors() as found:
            yield found

    def _expanding(self) -> Any:
        """The configuration, with word that weights of a form we do not keep are to be expanded."""
        brought = self.quantization.brought
        if brought is None or brought.kept:
            return self.outline.config
        config = copy.deepcopy(self.outline.config)
        for owner in (config, config.get_text_config(decoder=True)):
            if stated := getattr(owner, "quantization_config", None):
                fields = stated if isinstance(stated, dict) else stated.to_dict()
                owner.quantization_config = {**fields, "dequantize": True}
        return config

    def _model(
        self, tensors: Mapping[str, Any], config: Any, *, placed: bool, **settings: Any
    ) -> Any:
        """The pruned model with its tensors, each read when its turn comes.

        `placed`: small weights are made, and stay, where they are first put.
        """
        if placed:
            settings["device_map"] = {"": self.device}
        model, info = self.outline.pruned.from_pretrained(
            None,
            config=config,
            state_dict=dict(tensors),
            output_loading_info=True,
            dtype=self.dtype,
            **settings,
        )
        # Names the library would fill with noise: to it a fresh start, to us a broken checkpoint.
        missing = sorted(info["missing_keys"])
        if missing:
            raise BadModel(
                f"the checkpoint of {self.checkpoint.architecture} lacks {missing[0]}"
                + (f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""),
                hint="fetch the checkpoint again, or choose a span whose files are here",
            )
        model.eval().requires_grad_(False)
        return model if placed else model.to(self.device)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The library's errors while reading weights, as ours."""
        try:
            yield
        except BadModel:
            raise
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise self._out_of_memory(error) from error
        except RuntimeError as error:
            if "allocate" in str(error) or "out of memory" in str(error):
                raise self._out_of_memory(error) from error
            raise self._unreadable(error) from error
        except FAILURES as error:
            raise self._unreadable(error) from error

    def _out_of_memory(self, error: BaseException) -> OutOfMemory:
        return OutOfMemory(
            f"the span's weights do not fit on {self.device}: {first_line(error)}",
            hint="serve a shorter --span, or with --quantize 4bit",
        )

    def _unreadable(self, error: BaseException) -> BadModel:
        hint = "config.json and the weights must come from the same checkpoint"
        if brought := self.quantization.brought:
            hint += f"; not every {brought.name} checkpoint can be read by this transformers"
        return BadModel(
            f"the weights in {self.checkpoint.directory} do not fit "
            f"{self.checkpoint.architecture}: {first_line(error)}",
            hint=hint,
        )


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
