"""How a family marks its thinking and its calls, known by its chat template.

The formats are the families' own, as their chat templates and model cards print them: Hermes
(Qwen 2.5, Qwen 3 and many others), Qwen3-Coder, Llama 3.1 and later, Mistral, DeepSeek-V3 and
R1, Phi-4-mini, and OpenAI's Harmony for GPT-OSS (read by `harmony.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from manyhands.replies import harmony
from manyhands.replies.calls import (
    Reading,
    Teller,
    json_calls,
    known_json_calls,
    named_calls,
    tagged_calls,
)

NO_MARKS = ("", "")


class Ids(Enum):
    """What a family's templates accept as the id of a call."""

    LONG = "call_"
    NINE = ""  # nine letters and digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """thinking: the marks around what the model writes for itself. calls: those around a call,
    the closing one "" where the next opens or the reply ends. silent: marks that say nothing.
    bare: a reply that begins like a call is read as one, without any mark."""

    name: str
    thinking: tuple[str, str] = NO_MARKS
    calls: tuple[str, str] = NO_MARKS
    read_calls: Callable[[Teller], Reading] = json_calls
    silent: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()  # marks within a call
    bare: bool = False
    ids: Ids = Ids.LONG

    @property
    def has_calls(self) -> bool:
        return self.calls != NO_MARKS or self.bare

    @property
    def marks(self) -> tuple[str, ...]:
        """All that this dialect looks for in a reply."""
        return tuple(mark for mark in (*self.thinking, *self.calls, *self.silent) if mark)


HARMONY = Dialect(  # its marks are not one pair around a call: `harmony.py` reads it
    name="harmony", calls=("<|channel|>", "<|call|>"), silent=harmony.MARKS
)
DEEPSEEK = Dialect(
    name="deepseek",
    calls=("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
    read_calls=named_calls("<｜tool▁sep｜>"),
    inner=("<｜tool▁sep｜>",),
    silent=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
)
DEEPSEEK_FENCED = replace(DEEPSEEK, name="deepseek-fenced")  # V3 and R1, before V3.1
MISTRAL_NAMED = Dialect(
    name="mistral",
    calls=("[TOOL_CALLS]", ""),
    read_calls=named_calls("[ARGS]"),
    inner=("[ARGS]",),
    ids=Ids.NINE,
)
MISTRAL = Dialect(name="mistral-list", calls=("[TOOL_CALLS]", ""), ids=Ids.NINE)
QWEN_CODER = Dialect(
    name="qwen-coder", calls=("<tool_call>", "</tool_call>"), read_calls=tagged_calls
)
HERMES = Dialect(name="hermes", calls=("<tool_call>", "</tool_call>"))
PHI = Dialect(name="phi", calls=("<|tool_call|>", "<|/tool_call|>"))
LLAMA = Dialect(name="llama", calls=("<|python_tag|>", ""), read_calls=known_json_calls, bare=True)
PLAIN = Dialect(name="plain")

# What only such a template says. The first whose words all stand in it is the one.
SIGNS: tuple[tuple[Dialect, tuple[str, ...]], ...] = (
    (HARMONY, ("<|channel|>",)),
    (DEEPSEEK_FENCED, ("<｜tool▁call▁begin｜>", "```json")),
    (DEEPSEEK, ("<｜tool▁call▁begin｜>",)),
    (MISTRAL_NAMED, ("[TOOL_CALLS]", "[ARGS]")),
    (MISTRAL, ("[TOOL_CALLS]",)),
    (QWEN_CODER, ("<tool_call>", "<function=")),
    (HERMES, ("<tool_call>",)),
    (PHI, ("<|tool_call|>",)),
    (LLAMA, ("tools", '"parameters"')),
)
THINKING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


def dialect_of(chat_template: str | None) -> Dialect:
    """The dialect of a model with this template. One that names no tools has no calls."""
    template = chat_template or ""
    found = next((d for d, signs in SIGNS if all(s in template for s in signs)), PLAIN)
    if found is HARMONY:
        return found
    thinking = next((marks for marks in THINKING if marks[1] in template), NO_MARKS)
    return replace(found, thinking=thinking)
