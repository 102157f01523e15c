"""Making a span's linear maps small while they are read: bitsandbytes, a few rows at a time.

In: a form and the pruned model's class. Out: a configuration that transformers' own loader takes:
it then replaces linear maps and hands each weight to us as it comes from disk. The library would
quantize whole tensors, with temporary copies of 16 bytes per element; rows are independent, so a
few of them at a time give the same bits and keep the peak at what the span will take.
"""

from collections.abc import Iterator
from typing import Any

import bitsandbytes
import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers.integrations.bitsandbytes import Bnb4bitQuantize, Bnb8bitQuantize
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizer_bnb_8bit import Bnb8BitHfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name

from node.engine.quantization import BLOCK_ELEMENTS, INT8, is_quantizable

CHUNK_ELEMENTS = 2**20
FEW_ROWS = 8  # from where on widening the weights is cheaper than reading them small


def library_config(made: str, model: Any, block_prefix: str, dtype: torch.dtype) -> Any:
    """What to give `from_pretrained`; `model` is the pruned one, on no device."""
    return _config(_ByRows8 if made == INT8 else _ByRows4, made, model, block_prefix, dtype)


def stored_config(made: str, model: Any, block_prefix: str, dtype: torch.dtype) -> Any:
    """The same for weights that were made small before: the library's own form."""
    return _config(BitsAndBytesConfig, made, model, block_prefix, dtype)


def _config(kind: type[Any], made: str, model: Any, block_prefix: str, dtype: torch.dtype) -> Any:
    return kind(
        load_in_8bit=made == INT8,
        load_in_4bit=made != INT8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | Conv1D)
            and not (name.startswith(block_prefix) and is_quantizable(module))
        ],
    )


@register_quantization_config("manyhands_8bit")
class _ByRows8(BitsAndBytesConfig):  # type: ignore[misc]  # its base has no types
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.quant_method = "manyhands_8bit"


@register_quantization_config("manyhands_4bit")
class _ByRows4(BitsAndBytesConfig):  # type: ignore[misc]  # its base has no types
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.quant_method = "manyhands_4bit"


@register_quantizer("manyhands_8bit")
class _Quantizer8(Bnb8BitHfQuantizer):  # type: ignore[misc]  # its base has no types
    def get_quantize_ops(self) -> Any:
        return _Int8Rows(self)


@register_quantizer("manyhands_4bit")
class _Quantizer4(Bnb4BitHfQuantizer):  # type: ignore[misc]  # its base has no types
    def get_quantize_ops(self) -> Any:
        return _Nf4Rows(self)


class _Int8Rows(Bnb8bitQuantize):  # type: ignore[misc]  # its base has no types
    def convert(self, input_dict: dict[str, Any], model: Any = None, **_: Any) -> dict[str, Any]:
        return {name: _int8(model, name, value) for name, value in input_dict.items()}


class _Nf4Rows(Bnb4bitQuantize):  # type: ignore[misc]  # its base has no types
    def convert(self, input_dict: dict[str, Any], model: Any = None, **_: Any) -> dict[str, Any]:
        return {name: _nf4(model, name, value) for name, value in input_dict.items()}


def _int8(model: Any, name: str, value: Any) -> Any:
    _, weight = _weight(model, name, value)
    rows, scales = [], []
    for chunk in _chunks(weight):
        small, scale, _ = bitsandbytes.functional.int8_vectorwise_quant(chunk.to(torch.float16))
        rows.append(small)
        scales.append(scale)
    data = torch.cat(rows)
    return bitsandbytes.nn.Int8Params(
        data, requires_grad=False, has_fp16_weights=False, CB=data, SCB=torch.cat(scales)
    )


def _nf4(model: Any, name: str, value: Any) -> Any:
    module, weight = _weight(model, name, value)
    rows, scales, state = [], [], None
    for chunk in _chunks(weight):
        small, state = bitsandbytes.functional.quantize_4bit(
            chunk.contiguous(), blocksize=BLOCK_ELEMENTS, quant_type="nf4"
        )
        rows.append(small)
        scales.append(state.absmax)
    assert state is not None, "a weight has rows"
    state.absmax, state.shape = torch.cat(scales), weight.shape
    module.quant_state = state
    return bitsandbytes.nn.Params4bit(
        torch.cat(rows),
        requires_grad=False,
        quant_state=state,
        blocksize=BLOCK_ELEMENTS,
        compress_statistics=False,
        quant_type="nf4",
        module=module,
        bnb_quantized=True,
    )


def _weight(model: Any, name: str, value: Any) -> tuple[Any, Tensor]:
    module, _ = get_module_from_name(model, name)
    module._is_hf_initialized = True
    tensor: Tensor = value[0] if isinstance(value, list) else value
    return module, tensor.T if issubclass(module.source_cls, Conv1D) else tensor


def _chunks(weight: Tensor) -> Iterator[Tensor]:
    n_rows = max(1, CHUNK_ELEMENTS // weight.shape[1])
    for start in range(0, weight.shape[0], n_rows):
        yield weight[start : start + n_rows]


class Int8Linear(nn.Linear):
    """Rows times weights of 8 bits, each output scaled: rows are never rounded.

    The library would round rows too, all but the columns in which some row of the batch stands out:
    then one session's rows change another's. A few rows go through torch's kernel for such weights
    where it has one; many pay for the weights being widened once.
    """

    def __init__(self, small: Any, dtype: torch.dtype) -> None:
        super().__init__(small.in_features, small.out_features, bias=False, device="meta")
        scales = small.weight.SCB if small.state.SCB is None else small.state.SCB
        self.weight = nn.Parameter(small.weight.data, requires_grad=False)
        self.bias = small.bias
        self.scales = (scales / 127).to(dtype)

    def forward(self, rows: Tensor) -> Tensor:
        flat = rows.reshape(-1, self.in_features)
        if flat.shape[0] <= FEW_ROWS and flat.is_cpu and flat.dtype == torch.bfloat16:
            product = torch._weight_int8pack_mm(flat, self.weight, self.scales)
        else:
            product = nn.functional.linear(flat, self.weight.to(flat.dtype)) * self.scales
        product = product if self.bias is None else product + self.bias
        return product.reshape(*rows.shape[:-1], self.out_features)


def with_whole_rows(model: Any, dtype: torch.dtype) -> Any:
    """`model`, its 8-bit maps replaced by our own; 4-bit ones take rows as they are."""
    for name, module in list(model.named_modules()):
        if isinstance(module, bitsandbytes.nn.Linear8bitLt):
            model.set_submodule(name, Int8Linear(module, dtype))
    return model
