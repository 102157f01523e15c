"""Replies that may call in families whose calls begin with no token of their own: whatever is said,
what is read as a call of a strict function fits its schema."""

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from manyhands.replies import dialect as dialects
from manyhands.replies.dialect import Dialect, dialect_of
from manyhands.replies.forcing import Forced
from manyhands.replies.history import for_template
from manyhands.replies.parts import CallArguments, CallBegun, Said, joined
from manyhands.replies.reader import new_reader
from protocol.chat_template import render_chat
from tests.replies.test_forcing import WEATHER, Walk, accepts, added_ids, calls_in, new_tokenizer

SEARCH: dict[str, Any] = {"type": "object", "properties": {"q": {"type": "string"}}}
TOOLS = {"weather": WEATHER, "search": SEARCH}
FIT = '{"city": "Oslo", "days": 2}'
THINKING_LLAMA = dialects.dialect_of('tools "parameters" </think>')

# As the families' own templates put a call into a conversation, and where a reply begins.
LLAMA_TEMPLATE = """{%- for m in messages -%}
<|start_header_id|>{{ m.role }}<|end_header_id|>

{% if m.tool_calls -%}
{%- set call = m.tool_calls[0].function -%}
{{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}' -}}
{%- else -%}{{ m.content | trim }}{%- endif -%}<|eot_id|>
{%- endfor -%}
{%- if tools and add_generation_prompt -%}<|start_header_id|>assistant<|end_header_id|>

{% endif -%}"""
HARMONY_TEMPLATE = """{%- for m in messages -%}
{%- if m.tool_calls -%}
{%- if m.thinking -%}<|start|>assistant<|channel|>analysis<|message|>
{{- m.thinking }}<|end|>{%- endif -%}
{%- set call = m.tool_calls[0].function -%}
<|start|>assistant to=functions.{{ call.name }}<|channel|>commentary json<|message|>
{{- call.arguments | tojson }}<|call|>
{%- else -%}<|start|>{{ m.role }}<|channel|>final<|message|>{{ m.content }}<|end|>{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}"""
TEMPLATES = {LLAMA_TEMPLATE: "<|eot_id|>", HARMONY_TEMPLATE: "<|call|>"}


@cache
def tokenizer_of(name: str, thinks: bool = False) -> Tokenizer:
    return new_tokenizer(dialect_named(name, thinks))


def dialect_named(name: str, thinks: bool = False) -> Dialect:
    plain = dialects.HARMONY if name == "harmony" else dialects.LLAMA
    return THINKING_LLAMA if thinks else plain


def held(dialect: Dialect) -> tuple[Forced, Tokenizer]:
    tokenizer = tokenizer_of(dialect.name, bool(dialect.thinking[0]))
    ids = added_ids(tokenizer)
    forced = Forced(dialect=dialect, tools=TOOLS, free={"search"}, must=False, ids=ids)
    assert forced.can_be_left_open
    return forced, tokenizer


@pytest.mark.parametrize("template", TEMPLATES, ids=["llama", "gpt-oss"])
@pytest.mark.parametrize("thought", ["", "Oslo, then."])
@pytest.mark.parametrize(("days", "fits"), [(2, True), ("two", False)])
def test_a_call_as_the_familys_template_renders_it(
    template: str, thought: str, days: object, fits: bool
) -> None:
    dialect = dialect_of(template)
    arguments = json.dumps({"city": "Oslo", "days": days})
    call = {"id": "c", "function": {"name": "weather", "arguments": arguments}}
    asked: list[dict[str, Any]] = [{"role": "user", "content": "How is Oslo?"}]
    answer = {"role": "assistant", "tool_calls": [call], "reasoning": thought}

    def rendered(messages: list[dict[str, Any]], *, prompts: bool) -> str:
        tools = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
        told = for_template(messages)
        return render_chat(template, told, {}, add_generation_prompt=prompts, tools=tools)

    prompt, whole = rendered(asked, prompts=True), rendered([*asked, answer], prompts=False)
    reply = whole.removeprefix(prompt).removesuffix(TEMPLATES[template])

    assert whole.startswith(prompt)
    assert calls_in(dialect, reply) == [("weather", {"city": "Oslo", "days": days})]
    assert accepts(*held(dialect), reply) is fits


CALL = '{{"name": "{}", "parameters": {}}}'
TAG = "<|python_tag|>"
TO = "to=functions.weather"


@pytest.mark.parametrize(
    ("name", "said", "is_allowed"),
    [
        ("llama", "", True),
        ("llama", "It is {sunny}. {", True),
        ("llama", '{"name": "Alice", "parameters": 3}', True),
        ("llama", '[{"name": "weather"}]', True),
        ("llama", '{"day": 1, "name": "weather", "parameters": {}}', True),  # no call: an answer
        ("llama", 'So: {"name": "weather", "parameters": {}}', True),  # neither
        ("llama", CALL.format("weather", FIT), True),
        ("llama", CALL.format("weather", "{}"), False),
        ("llama", "\n" + CALL.format("weather", "{}"), False),
        ("llama", '{"name":"weather","arguments":{"city":"Oslo","days":2}}', True),
        ("llama", '{"type": "function", "function": "weather", "parameters": ' + FIT + "}", True),
        ("llama", '{"type": "function", "name": "weather", "parameters": {}}', False),
        ("llama", CALL.format("search", '{"any": [1]}'), True),
        ("llama", CALL.format("search", "{}") + "; " + CALL.format("weather", FIT), True),
        ("llama", CALL.format("search", "{}") + "; " + CALL.format("weather", "{}"), False),
        ("llama", TAG + CALL.format("weather", FIT), True),
        ("llama", f"Let me see. {TAG}" + CALL.format("weather", "{}"), False),
        ("llama", f"{TAG}[" + CALL.format("weather", "{}") + "]", False),
        ("llama", f'{TAG}brave_search.call(query="Oslo")', True),
        ("harmony", "Just text.", True),
        ("harmony", "<|channel|>final<|message|>Sunny, to=functions.weather.", True),
        ("harmony", "<|channel|>commentary<|message|>I ask.<|end|><|start|>assistant", False),
        (
            "harmony",
            "<|channel|>commentary<|message|>I ask.<|end|><|start|>assistant<|channel|>final"
            "<|message|>Sunny.",
            True,
        ),
        ("harmony", f"<|channel|>commentary {TO} <|constrain|>json<|message|>{FIT}", True),
        ("harmony", f"<|channel|>commentary {TO}<|message|>{FIT}<|end|>", True),
        ("harmony", f"<|channel|>commentary {TO} <|constrain|>json<|message|>{{}}", False),
        ("harmony", f"<|channel|>analysis {TO} code<|message|>{{}}", False),
        ("harmony", f" {TO}<|channel|>commentary<|message|>{{}}", False),
        ("harmony", "<|channel|>commentary to=functions.search<|message|>{}", True),
        ("harmony", " to=python<|channel|>commentary code<|message|>print(1)", True),
    ],
)
def test_only_what_begins_a_call_is_bound(name: str, said: str, is_allowed: bool) -> None:
    assert accepts(*held(dialect_named(name)), said) is is_allowed


KEYS = ('"name"', '"function"', '"type"', '"parameters"', '"arguments"', '"day"', '"n\\u0061me"')
VALUES = ('"weather"', '"search"', '"function"', "{}", FIT, "3", '"wea\\u0074her"', '{"name": 1}')
SCRAPS = (
    *(
        "{",
        "}",
        "[",
        "; ",
        ", ",
        " ",
        "\n",
        "x",
        '"',
        "weather",
        " to=functions.",
        "=",
        "<|python_",
    ),
    *("tag|>", "<|message|", ">", "<think>", "</think>", "assistant", "final", " json"),
)
HEADERS = ("commentary", "analysis ", " to=functions.weather", "to=functions.search ", "to=", "")
MARKS = ("<|python_tag|>", *dialects.HARMONY.silent, "<think>", "</think>")
an_object = st.builds(
    lambda pairs, gap: "{" + f",{gap}".join(f"{key}:{gap}{value}" for key, value in pairs) + "}",
    st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), min_size=1, max_size=4),
    st.sampled_from(("", " ", "\n")),
)
a_header = st.lists(
    st.sampled_from((*HEADERS, "<|channel|>", "<|start|>", "<|constrain|>")), max_size=5
)
a_message = st.builds(
    lambda header, body: [*header, "<|message|>", body],
    a_header,
    st.sampled_from(("{}", FIT, "Sunny.")),
)
a_reply = st.lists(
    st.one_of(
        an_object.map(lambda text: [text]),
        a_message,
        st.sampled_from(SCRAPS + MARKS).map(lambda text: [text]),
    ),
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([("llama", False), ("llama", True), ("harmony", False)]),
    a_reply,
    st.sets(st.integers(0, 25)),
    st.integers(0, 3),
)
def test_whatever_is_said_no_call_is_read_that_does_not_fit(
    which: tuple[str, bool], reply: list[list[str]], letters: set[int], seed: int
) -> None:
    """Scraps come as tokens where they are marks, or letter by letter; then the walk goes on.

    letters: which of them come so.
    """
    dialect = dialect_named(*which)
    forced, tokenizer = held(dialect)
    walk, told = Walk(forced, tokenizer), list[int]()
    for at, scrap in enumerate(scrap for part in reply for scrap in part):
        ids = spelled(scrap) if at in letters else tokenizer.encode(scrap).ids
        told += ids[: walk.matcher.try_consume_tokens(ids)]
    if not walk.matcher.is_accepting():
        told += walk.draw(seed, most=60)
    reader = new_reader(dialect, "", TOOLS)
    text = tokenizer.decode(told, skip_special_tokens=False)
    parts = joined(reader.feed(text) + reader.end())

    names = [part.name for part in parts if isinstance(part, CallBegun)]
    arguments = {part.index: part.text for part in parts if isinstance(part, CallArguments)}
    whole = len(names) if walk.matcher.is_accepting() else len(names) - 1
    for at, name in enumerate(names[: max(0, whole)]):
        if name == "weather":
            told_arguments = json.loads(arguments[at])
            assert set(told_arguments) == {"city", "days"}, text
            assert told_arguments["city"] in ("Paris", "Oslo"), text
            assert type(told_arguments["days"]) is int, text


def spelled(text: str) -> list[int]:
    """The ids of its bytes: no mark's own."""
    plain = Tokenizer.from_str(Tokenizer(tokenizer_of("llama").model).to_str())
    plain.pre_tokenizer = tokenizer_of("llama").pre_tokenizer
    ids: list[int] = plain.encode(text).ids
    return ids


def test_what_is_no_call_reaches_the_caller_as_it_was_said() -> None:
    said = '{"name": "Alice", "parameters": {"age": 3}}'
    reader = new_reader(dialects.LLAMA, "", TOOLS)

    assert joined(reader.feed(said) + reader.end()) == [Said(said)]
