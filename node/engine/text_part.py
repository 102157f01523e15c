"""The text part of models that also see or hear: served alone, as the library serves it alone.

In: a configuration, and names of tensors as a checkpoint stores them. Out: the text part's own
configuration where the library has a language model for it, and the names its tensors have there.
A model that is text and nothing else comes out as it went in.
"""

from collections.abc import Collection, Iterable
from typing import Any

PREFIXES = (  # as stored, as the language model names it; the first that fits counts
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
    ("model.text_model.", "model."),
    ("lm_head.", "lm_head."),
)


def text_config(config: Any, tensors: Collection[str] = ()) -> Any:
    """The configuration to serve; `tensors` by the names they are served under, if known."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    text = config.get_text_config(decoder=True)
    if text is config or type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return config
    for name in ("dtype", "quantization_config"):  # stated once, for all parts
        if getattr(text, name, None) is None and getattr(config, name, None) is not None:
            setattr(text, name, getattr(config, name))
    # Whether the ends are tied is said of the whole, often wrongly; a head of its own tells.
    has_head = any(name.startswith("lm_head.") for name in tensors)
    text.tie_word_embeddings = not has_head if tensors else config.tie_word_embeddings
    return text


def text_names(stored: Iterable[str]) -> dict[str, str]:
    """Served name to stored name, of the tensors that belong to the text part."""
    names = list(stored)
    if not any(name.startswith(prefix) for name in names for prefix, _ in PREFIXES[:-1]):
        return {name: name for name in names}
    served = {}
    for name in names:
        for prefix, plain in PREFIXES:
            if name.startswith(prefix):
                served[plain + name.removeprefix(prefix)] = name
                break
    return served
