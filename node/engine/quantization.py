"""Which small forms of weights there are: those we make while loading, those checkpoints bring.

In: what an operator asks for and a configuration says. Out: a `Quantization`, the form a span's
weights are kept in, or a refusal that names the library that is missing. Making small weights is
left to `quantizing.py`, keeping them on disk to `span_cache.py`; names of forms are part of the
execution profile (`protocol/profile.py`).

Only linear maps inside blocks are made small. Embedding and head stay as they are: they are a
small part of a large model, and the ends decide which token is drawn.
"""

import importlib
import importlib.util
import logging
import sys
from dataclasses import dataclass
from typing import Any

from protocol.errors import BadModel, ConfigError, UsageError
from protocol.profile import PLAIN

# The library says once per product that inputs become float16, which is what int8 was chosen for,
# and once that a kernel from a hub is missing, which we would not run.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

INT8, NF4, FP4 = "int8", "nf4", "fp4"
MADE_FORMS = (INT8, NF4, FP4)  # the library's
CHOICES = {"none": PLAIN, "int8": INT8, "4bit": NF4, "nf4": NF4}  # as people spell them
EXTRA = "pip install 'manyhands[quant]'"
BLOCK_ELEMENTS = 64  # of one row share a scale in nf4
ROWS_TOGETHER = 32  # what the library's CPU kernel packs side by side


@dataclass(frozen=True, slots=True)
class Method:
    """How checkpoints that are quantized already are served.

    `needs` names libraries beyond our own, as they are imported and as they are installed.
    """

    name: str
    kept: bool  # in memory as on disk; else expanded to the dtype while loading
    needs: tuple[tuple[str, str], ...] = ()
    proven: bool = True  # by our tests, on a CPU

    def missing(self) -> tuple[str, ...]:
        """What has to be installed first."""
        return tuple(
            package for module, package in self.needs if importlib.util.find_spec(module) is None
        )


_ACCELERATE = ("accelerate", "accelerate")
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("bitsandbytes", True, (("bitsandbytes", "bitsandbytes"), _ACCELERATE)),
        Method("compressed-tensors", False, (("compressed_tensors", "compressed-tensors"),)),
        Method("fp8", False, (_ACCELERATE,)),
        Method("mxfp4", False, (_ACCELERATE,)),
        Method("gptq", True, (("optimum", "optimum"), ("gptqmodel", "gptqmodel")), proven=False),
        Method("awq", True, (("gptqmodel", "gptqmodel"), _ACCELERATE), proven=False),
    )
}
"""By the name that config.json gives; others are refused. What the library would compute with
kernels fetched from a hub is expanded instead: only code that was installed is run."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """The form of one span's weights.

    `made` is ours, while loading; `brought` the checkpoint's own, `brought_form` in our words.
    """

    made: str = PLAIN
    brought: Method | None = None
    brought_form: str = PLAIN

    @property
    def name(self) -> str:
        """As the execution profile says it: what is expanded computes like any other."""
        if self.brought is not None and self.brought.kept:
            return self.brought_form
        return self.made

    @property
    def is_kept(self) -> bool:
        """Whether small weights stay small in memory."""
        return self.name != PLAIN


def load_library() -> None:
    """Import bitsandbytes, which would fetch a kernel from a hub where the `kernels` package is
    installed: what nobody installed is not run.
    """
    held = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]  # so that importing it fails
    try:
        importlib.import_module("bitsandbytes")
    finally:
        del sys.modules["kernels"]
        if held is not None:
            sys.modules["kernels"] = held


def read_choice(text: str) -> str:
    """What an operator wrote.

    Raises:
        UsageError: there is no such form.
    """
    if text not in CHOICES:
        raise UsageError(f"no way to quantize called {text[:40]!r}", hint="none, int8 or 4bit")
    return CHOICES[text]


def choose(config: Any, architecture: str, choice: str) -> Quantization:
    """How the weights of this configuration are to be kept.

    Raises:
        BadModel: the checkpoint's form is unknown, or needs what is not installed.
        UsageError: it is quantized already, and another form was asked for.
        ConfigError: the extra that makes small weights is not installed.
    """
    made = read_choice(choice)
    brought, form = _brought(config, architecture)
    if brought is not None and made != PLAIN:
        raise UsageError(
            f"this checkpoint is quantized already ({brought.name}), it cannot be made {made}",
            hint="leave --quantize out, or serve the checkpoint it was made from",
        )
    if made != PLAIN:
        _require_extra()
    return Quantization(made, brought, form)


def _brought(config: Any, architecture: str) -> tuple[Method | None, str]:
    text = config.get_text_config(decoder=True)
    stated = getattr(config, "quantization_config", None)
    stated = stated or getattr(text, "quantization_config", None)
    if stated is None:
        return None, PLAIN
    fields = stated if isinstance(stated, dict) else stated.to_dict()
    name = str(fields.get("quant_method") or "bitsandbytes")
    method = METHODS.get(name)
    if method is None:
        raise BadModel(
            f"unsupported checkpoint {architecture}: its weights are quantized as {name[:40]!r}",
            hint=f"served are {', '.join(sorted(METHODS))}, GGUF files, and weights as published",
        )
    if missing := method.missing():
        raise BadModel(
            f"weights quantized as {name} need {' and '.join(missing)}, which is not installed",
            hint=f"pip install {' '.join(missing)}",
        )
    if name == "bitsandbytes":
        return method, INT8 if fields.get("load_in_8bit") else _four_bits(fields)
    return method, name


def _four_bits(fields: Any) -> str:
    return FP4 if fields.get("bnb_4bit_quant_type") == FP4 else NF4


def _require_extra() -> None:
    if missing := METHODS["bitsandbytes"].missing():
        raise ConfigError(
            f"making weights small needs {' and '.join(missing)}, which is not installed",
            hint=EXTRA,
        )


def is_quantizable(linear: Any) -> bool:
    """Whether a linear map fits the library's kernels on every device; others stay as they are.

    Asked alike everywhere, so that a chain computes the same wherever its hops run.
    """
    n_out, n_in = linear.weight.shape
    if type(linear).__name__ == "Conv1D":  # stores its weights the other way round
        n_out, n_in = n_in, n_out
    return bool(n_in % BLOCK_ELEMENTS == 0 and n_out % ROWS_TOGETHER == 0)


def small_bytes(made: str, shape: tuple[int, ...]) -> int:
    """What a linear map's weights take once they are made small."""
    n_out, n_in = shape
    if made == INT8:
        return n_out * n_in + 4 * n_out  # a scale per row
    return n_out * n_in // 2 + 4 * (n_out * n_in // BLOCK_ELEMENTS)


def held_bytes(model: Any) -> int:
    """What a loaded model's weights take, with the scales of small ones; shared ones count once."""
    from node.engine.prepacked import PrepackedLinear

    held = {p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}
    for module in model.modules():
        if isinstance(module, PrepackedLinear):
            held[module.address] = module.n_bytes
            continue
        weight = getattr(module, "weight", None)
        state = getattr(weight, "quant_state", None)
        scales = getattr(module, "scales", None) if state is None else state.absmax
        if scales is not None:
            held[scales.data_ptr()] = scales.numel() * scales.element_size()
    return sum(held.values())
