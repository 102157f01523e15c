"""The shape of a document: special tokens, the chat template, and what the model is to learn.

In: turns of a conversation, or a plain text. Out: segments, each a string with a mark that says
whether the model writes it (an answer, a story) or only reads it (a question). Every answer and
every story ends with `END`, the end-of-sequence token. There is no begin token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

PAD, END, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
SPECIAL_TOKENS = (PAD, END, USER, ASSISTANT, SYSTEM)  # their ids are their places here

# Tools are told and called as Hermes models do it, which many programs read. The model has never
# seen one: it calls where its reply is held to a call, and reads results as a user's words.
CHAT_TEMPLATE = (
    "{% if tools %}"
    "{{ '<|system|>You can call these functions:\n' }}"
    "{% for tool in tools %}{{ tool | tojson + '\n' }}{% endfor %}"
    '{{ \'To call one, say <tool_call>{"name": ..., "arguments": {...}}</tool_call>\' }}'
    "{{ '<|end|>' }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}{{ '<|user|>' }}{% else %}"
    "{{ '<|' + message['role'] + '|>' }}{% endif %}"
    "{{ (message['content'] or '') | trim }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ '<tool_call>\n{\"name\": \"' + call['function']['name'] + '\", \"arguments\": ' }}"
    "{{ (call['function']['arguments'] | tojson) + '}\n</tool_call>' }}"
    "{% endfor %}"
    "{{ '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a document; `is_written` says that the model learns to write it."""

    text: str
    is_written: bool


Document = tuple[Segment, ...]
Turn = tuple[str, str]  # a question and its answer


def plain(text: str) -> Document:
    """A document without roles: the model goes on from whatever it is given."""
    return (Segment(text + END, is_written=True),)


def conversation(turns: Sequence[Turn], system: str | None = None) -> Document:
    """The turns as the chat template renders them."""
    segments = [] if system is None else [Segment(f"{SYSTEM}{system}{END}", is_written=False)]
    for question, answer in turns:
        segments.append(Segment(f"{USER}{question}{END}{ASSISTANT}", is_written=False))
        segments.append(Segment(answer + END, is_written=True))
    return tuple(segments)


def ask(question: str) -> str:
    """The prompt that makes the model answer one question."""
    return f"{USER}{question}{END}{ASSISTANT}"
