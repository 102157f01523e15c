"""Replies of all dialects, however they are cut into pieces."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.replies import dialect as dialects
from manyhands.replies.dialect import Dialect, dialect_of
from manyhands.replies.parts import CallArguments, CallBegun, Part, Said, Thought, joined
from manyhands.replies.reader import new_reader

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
}
TOOLS = {"weather": WEATHER, "time": {"type": "object", "properties": {}}}
THINKING_HERMES = dialect_of("<tool_call> </think>")

PARIS = (CallBegun(0, "weather"), CallArguments(0, '{"city": "Paris"}'))
BOTH = (*PARIS, CallBegun(1, "time"), CallArguments(1, "{}"))

CASES: dict[str, tuple[Dialect, str, tuple[Part, ...]]] = {
    "hermes": (
        dialects.HERMES,
        'Let me look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n'
        "</tool_call>\n"
        '<tool_call>{"name": "time", "arguments": {}}</tool_call>',
        (Said("Let me look.\n"), *BOTH),
    ),
    "hermes, arguments first": (
        dialects.HERMES,
        '<tool_call>{"arguments": {"city": "Paris"}, "name": "weather"}</tool_call>',
        PARIS,
    ),
    "hermes, arguments in a string": (
        dialects.HERMES,
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>',
        PARIS,
    ),
    "hermes, no arguments": (
        dialects.HERMES,
        '<tool_call>{"name": "time"}</tool_call>',
        (CallBegun(0, "time"), CallArguments(0, "{}")),
    ),
    "hermes, braces and marks of strings inside": (
        dialects.HERMES,
        '<tool_call>{"name": "weather", "arguments": {"city": "a\\"}{[ b"}}</tool_call>',
        (CallBegun(0, "weather"), CallArguments(0, '{"city": "a\\"}{[ b"}')),
    ),
    "hermes, no call after all": (
        dialects.HERMES,
        "<tool_call>I would rather not</tool_call>",
        (Said("<tool_call>I would rather not</tool_call>"),),
    ),
    "thinking, then a call": (
        THINKING_HERMES,
        "<think>\nParis?</think>\n\n"
        '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>',
        (Thought("\nParis?"), *PARIS),
    ),
    "a call inside a thought is a thought": (
        THINKING_HERMES,
        "<think>I could say <tool_call>{}</tool_call></think>No.",
        (Thought("I could say <tool_call>{}</tool_call>"), Said("No.")),
    ),
    "qwen coder": (
        dialects.QWEN_CODER,
        "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "</function>\n</tool_call>",
        (CallBegun(0, "weather"), CallArguments(0, '{"city": "Paris", "days": 3}')),
    ),
    "llama, marked": (
        dialects.LLAMA,
        '<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}',
        PARIS,
    ),
    "llama, bare, two": (
        dialects.LLAMA,
        '{"name": "weather", "parameters": {"city": "Paris"}}; {"name": "time", "parameters": {}}',
        BOTH,
    ),
    "llama, JSON that is an answer": (
        dialects.LLAMA,
        '{"name": "Bob", "parameters": 3}',
        (Said('{"name": "Bob", "parameters": 3}'),),
    ),
    "llama, a call that says its type": (
        dialects.LLAMA,
        '{"type": "function", "name": "weather", "parameters": {"city": "Paris"}}',
        PARIS,
    ),
    "llama, JSON with a function's name in it": (
        dialects.LLAMA,
        '{"day": 1, "name": "weather", "parameters": {}}',
        (Said('{"day": 1, "name": "weather", "parameters": {}}'),),
    ),
    "llama, an answer": (dialects.LLAMA, "It is {sunny}.", (Said("It is {sunny}."),)),
    "mistral, a list": (
        dialects.MISTRAL,
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}},'
        ' {"name": "time", "arguments": {}}]',
        BOTH,
    ),
    "mistral, names": (
        dialects.MISTRAL_NAMED,
        '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}[TOOL_CALLS]time[ARGS]{}',
        BOTH,
    ),
    "deepseek v3": (
        dialects.DEEPSEEK,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
        '{"city": "Paris"}\n```<｜tool▁call▁end｜>\n'
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>time\n```json\n{}\n```"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        BOTH,
    ),
    "deepseek v3.1": (
        dialects.DEEPSEEK,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"
        'weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>'
        "<｜tool▁calls▁end｜>",
        PARIS,
    ),
    "phi": (
        dialects.PHI,
        '<|tool_call|>[{"name": "weather", "arguments": {"city": "Paris"}}]<|/tool_call|>',
        PARIS,
    ),
    "harmony": (
        dialects.HARMONY,
        "<|channel|>analysis<|message|>Paris, then.<|end|><|start|>assistant<|channel|>commentary"
        ' to=functions.weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>',
        (Thought("Paris, then."), *PARIS),
    ),
    "harmony, called before the channel": (
        dialects.HARMONY,
        ' to=functions.weather<|channel|>commentary json<|message|>{"city": "Paris"}<|call|>',
        PARIS,
    ),
    "harmony, an answer": (
        dialects.HARMONY,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Sunny.<|return|>",
        (Thought("Hm."), Said("Sunny.")),
    ),
    "harmony, plain text": (dialects.HARMONY, "Just text.", (Said("Just text."),)),
    "harmony, text that begins alike": (dialects.HARMONY, " to=fun", (Said(" to=fun"),)),
    "plain": (dialects.PLAIN, "<tool_call>{}</tool_call>", (Said("<tool_call>{}</tool_call>"),)),
}


def read(
    dialect: Dialect,
    pieces: list[str],
    *,
    prompt: str = "",
    tools: Mapping[str, Any] | None = TOOLS,
) -> tuple[Part, ...]:
    reader = new_reader(dialect, prompt, tools)
    return tuple(joined([part for piece in pieces for part in reader.feed(piece)] + reader.end()))


@pytest.mark.parametrize("case", CASES)
def test_a_reply_is_taken_apart(case: str) -> None:
    dialect, text, parts = CASES[case]
    assert read(dialect, [text]) == parts
    assert read(dialect, list(text)) == parts


@given(st.data(), st.sampled_from(sorted(CASES)))
def test_where_the_text_is_cut_does_not_matter(data: st.DataObject, case: str) -> None:
    dialect, text, parts = CASES[case]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(dialect, pieces) == parts


SCRAPS = (
    *("<tool_call>", "</tool_call>", "<think>", "</think>", '{"name":', '"weather"', "}", "{"),
    *('"arguments":', ",", "x", "\\", '"', "<function=", ">", "<parameter=", "[TOOL_CALLS]"),
    *("<|channel|>", "<|message|>", "<|call|>", " to=functions.f ", "<｜tool▁call▁begin｜>"),
    *("<｜tool▁sep｜>", "<|python_tag|>", "é", " ", "[", "]", "[ARGS]", "\n"),
)


@given(st.sampled_from(sorted(CASES)), st.lists(st.sampled_from(SCRAPS), max_size=40))
def test_no_reply_breaks_a_reader(case: str, pieces: list[str]) -> None:
    """And calls are counted from 0; arguments belong to the last one begun."""
    parts = read(CASES[case][0], pieces)
    begun = -1
    for part in parts:
        if isinstance(part, CallBegun):
            begun += 1
            assert (part.index, bool(part.name)) == (begun, True)
        elif isinstance(part, CallArguments):
            assert part.index == begun >= 0


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith(("hermes", "llama"))])
def test_without_tools_on_offer_nothing_is_a_call(case: str) -> None:
    dialect, text, _ = CASES[case]
    assert read(dialect, [text], tools=None) == (Said(text),)


def test_a_prompt_that_ends_in_the_opening_mark_begins_a_thought() -> None:
    parts = read(
        THINKING_HERMES,
        ["so it is", "</think>", "\n\nYes."],
        prompt="<|im_start|>assistant\n<think>\n",
    )
    assert parts == (Thought("so it is"), Said("Yes."))


def test_arguments_stream_before_the_call_is_complete() -> None:
    reader = new_reader(dialects.HERMES, "", TOOLS)
    assert reader.feed('<tool_call>{"name": "weather",') == [CallBegun(0, "weather")]
    assert reader.feed(' "arguments": {"city": "Pa') == [CallArguments(0, '{"city": "Pa')]
    assert reader.feed('ris"}') == [CallArguments(0, 'ris"}')]


def test_a_call_that_was_cut_short_is_told_as_far_as_it_came() -> None:
    parts = read(dialects.HERMES, ['<tool_call>{"name": "weather", "arguments": {"ci'])
    assert parts == (CallBegun(0, "weather"), CallArguments(0, '{"ci'))


@pytest.mark.parametrize(
    ("template", "name", "thinks"),
    [
        ("{{ '<tool_call>' }}", "hermes", False),
        ("<tool_call> <function= </think>", "qwen-coder", True),
        ("[TOOL_CALLS] tools", "mistral-list", False),
        ("[TOOL_CALLS] [ARGS] [THINK] [/THINK]", "mistral", True),
        ('{% if tools %} {"name": f, "parameters": {} }', "llama", False),
        ("<｜tool▁call▁begin｜> </think>", "deepseek", True),
        ("<|channel|>analysis", "harmony", False),
        ("just {{ messages }}", "plain", False),
        (None, "plain", False),
    ],
)
def test_a_template_tells_the_dialect(template: str | None, name: str, thinks: bool) -> None:
    found = dialect_of(template)
    assert (found.name, bool(found.thinking[0])) == (name, thinks)


def test_typed_arguments_are_json() -> None:
    city, days = "<parameter=city>12</parameter>", "<parameter=days>x</parameter>"
    text = f"<tool_call><function=weather>{city}{days}</function></tool_call>"
    _, arguments = read(dialects.QWEN_CODER, [text])
    assert isinstance(arguments, CallArguments)
    assert json.loads(arguments.text) == {"city": "12", "days": "x"}


@pytest.mark.parametrize("name", ['"\\ud800"', "3", '""'])
def test_a_name_that_nobody_can_send_is_no_call(name: str) -> None:
    text = f'<tool_call>{{"name": {name}, "arguments": {{}}}}</tool_call>'
    parts = read(dialects.HERMES, [text])
    assert not [part for part in parts if isinstance(part, CallBegun)]
    json.dumps([str(part) for part in parts]).encode()


def test_a_mark_of_thinking_in_an_argument_is_part_of_it() -> None:
    text = '<tool_call>{"name": "weather", "arguments": {"city": "<think>x</think>"}}</tool_call>'
    parts = read(THINKING_HERMES, [text])
    assert parts == (CallBegun(0, "weather"), CallArguments(0, '{"city": "<think>x</think>"}'))


def test_a_second_mark_begins_a_second_call() -> None:
    one, two = (f'<|python_tag|>{{"name": "{n}", "parameters": {{}}}}' for n in ("weather", "time"))
    parts = read(dialects.LLAMA, [one + two])
    assert [part.name for part in parts if isinstance(part, CallBegun)] == ["weather", "time"]
    assert [part.index for part in parts if isinstance(part, CallArguments)] == [0, 1]


def test_text_that_may_be_nothing_is_text_and_nan_is_no_json() -> None:
    tools = {"f": {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}}
    call = "<function=f><parameter=a>12345</parameter><parameter=b>NaN</parameter></function>"
    _, arguments = read(dialects.QWEN_CODER, [f"<tool_call>{call}</tool_call>"], tools=tools)
    assert isinstance(arguments, CallArguments)
    assert json.loads(arguments.text) == {"a": "12345", "b": "NaN"}
