"""Grammars of replies that must call: what they let through is what the reader reads."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import llguidance.numpy
import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from manyhands.replies import dialect as dialects
from manyhands.replies.dialect import Dialect
from manyhands.replies.forcing import Forced
from manyhands.replies.parts import CallArguments, CallBegun, Thought, joined
from manyhands.replies.reader import new_reader
from manyhands.replies.tool_schemas import parameters_of
from protocol.errors import UsageError

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Oslo"]},
        "days": {"type": "integer"},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = {"weather": WEATHER, "time": {"type": "object", "properties": {}}}
CLOSED = TOOLS | {"time": {**TOOLS["time"], "additionalProperties": False}}
CALLING = (
    *(dialects.HERMES, dialects.QWEN_CODER, dialects.LLAMA, dialects.MISTRAL),
    *(dialects.MISTRAL_NAMED, dialects.DEEPSEEK, dialects.DEEPSEEK_FENCED, dialects.PHI),
    dialects.HARMONY,
)
N_BYTES = 256  # tokens that are bytes come first
ARE_SPECIAL = ("mistral", "mistral-list", "harmony", "phi", "llama")  # as in the families' own


def new_tokenizer(dialect: Dialect) -> Tokenizer:
    """Bytes, and the dialect's marks as tokens of their own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = (*dialect.marks, *(["[ARGS]", "<｜tool▁sep｜>"] if "[" in dialect.calls[0] else []))
    special = dialect.name in ARE_SPECIAL
    tokenizer.add_tokens([AddedToken(mark, special=special) for mark in dict.fromkeys(marks)])
    tokenizer.add_special_tokens(["<eos>"])
    return tokenizer


class Walk:
    """A model without a mind: any token that the grammar allows."""

    def __init__(self, forced: Forced, tokenizer: Tokenizer) -> None:
        self.eos = tokenizer.token_to_id("<eos>")
        self.library = LLTokenizer(tokenizer.to_str(), eos_token=self.eos)
        self.matcher = LLMatcher(self.library, LLMatcher.grammar_from_lark(forced.lark()))
        assert not self.matcher.is_error(), self.matcher.get_error()

    def draw(self, seed: int, most: int = 600) -> list[int]:
        rng, ids = random.Random(seed), list[int]()
        mask = llguidance.numpy.allocate_token_bitmask(1, self.library.vocab_size)
        while len(ids) < most and not self.matcher.is_stopped():
            llguidance.numpy.fill_next_token_bitmask(self.matcher, mask)
            allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
            if self.eos in allowed:
                return ids
            marks = [id for id in allowed.tolist() if id >= N_BYTES]
            token = rng.choice(marks if marks and rng.random() < 0.2 else allowed.tolist())
            self.matcher.consume_token(token)
            ids.append(token)
        return ids


def added_ids(tokenizer: Tokenizer) -> dict[str, int]:
    return {token.content: id for id, token in tokenizer.get_added_tokens_decoder().items()}


def calls_in(
    dialect: Dialect, text: str, tools: Mapping[str, Any] = TOOLS
) -> list[tuple[str, object]]:
    reader = new_reader(dialect, "", tools)
    parts = joined(reader.feed(text) + reader.end())
    assert all(isinstance(part, CallBegun | CallArguments | Thought) for part in parts), parts
    begun = [part.name for part in parts if isinstance(part, CallBegun)]
    arguments = {part.index: part.text for part in parts if isinstance(part, CallArguments)}
    return [(name, json.loads(arguments[at])) for at, name in enumerate(begun)]


def is_fit(call: tuple[str, object]) -> bool:
    name, arguments = call
    if name == "time":
        return isinstance(arguments, dict)
    fits = isinstance(arguments, dict) and set(arguments) == {"city", "days"}
    return fits and arguments["city"] in ("Paris", "Oslo") and type(arguments["days"]) is int


@pytest.mark.parametrize("dialect", CALLING, ids=lambda dialect: dialect.name)
def test_whatever_the_grammar_allows_is_read_as_calls_that_fit(dialect: Dialect) -> None:
    tokenizer = new_tokenizer(dialect)
    forced = Forced(dialect=dialect, tools=CLOSED, ids=added_ids(tokenizer))
    for seed in range(8):
        text = tokenizer.decode(Walk(forced, tokenizer).draw(seed), skip_special_tokens=False)
        calls = calls_in(dialect, text)
        assert calls, text
        assert all(map(is_fit, calls)), text


TWO = {
    "hermes": '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>\n'
    '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>',
    "mistral": "[TOOL_CALLS]time[ARGS]{}[TOOL_CALLS]time[ARGS]{}",
    "mistral-list": '[TOOL_CALLS][{"name": "time", "arguments": {}}, '
    '{"name": "time", "arguments": {}}]',
}


def accepts(forced: Forced, tokenizer: Tokenizer, text: str) -> bool:
    walk = Walk(forced, tokenizer)
    ids: Sequence[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return walk.matcher.try_consume_tokens(list(ids)) == len(ids) and walk.matcher.is_accepting()


@pytest.mark.parametrize("name", TWO)
def test_one_call_or_several_as_was_asked(name: str) -> None:
    dialect = next(each for each in CALLING if each.name == name)
    tokenizer = new_tokenizer(dialect)
    several = Forced(dialect=dialect, tools=TOOLS, ids=added_ids(tokenizer))
    assert accepts(several, tokenizer, TWO[name])
    assert not accepts(replace(several, several=False), tokenizer, TWO[name])


@pytest.mark.parametrize("thinks", [False, True])
def test_a_model_that_thinks_may_think_first(thinks: bool) -> None:
    dialect = replace(dialects.HERMES, thinking=("<think>", "</think>"))
    tokenizer = new_tokenizer(dialect)
    forced = Forced(
        dialect=dialect, tools=TOOLS, ids=added_ids(tokenizer), several=False, thinks=thinks
    )
    call = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
    thought = "Time, <b>then</b>.</think>\n\n"
    assert accepts(forced, tokenizer, ("" if thinks else "<think>\n") + thought + call)
    assert accepts(forced, tokenizer, call) is not thinks


def test_a_grammar_is_refused_where_a_model_knows_no_tools() -> None:
    with pytest.raises(UsageError, match="knows no tools"):
        Forced(dialect=dialects.PLAIN, tools=TOOLS, ids={})


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "retrieval"},
        {"type": "function"},
        {"type": "function", "function": {"name": 'a"b'}},
        {"type": "function", "function": {"name": "f", "parameters": [1]}},
    ],
)
def test_what_is_no_function_is_named(tool: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"tools\[0\]"):
        parameters_of([tool])


@pytest.mark.parametrize("dialect", CALLING, ids=lambda dialect: dialect.name)
def test_what_a_schema_refers_to_goes_along(dialect: Dialect) -> None:
    """As pydantic writes nested models."""
    one, other = (
        {
            "type": "object",
            "properties": {"place": {"$ref": "#/$defs/Place"}},
            "required": ["place"],
            "additionalProperties": False,
            "$defs": {"Place": {"enum": places}},
        }
        for places in (["Paris"], ["Oslo"])
    )
    tokenizer = new_tokenizer(dialect)
    forced = Forced(dialect=dialect, tools={"f": one, "g": other}, ids=added_ids(tokenizer))
    text = tokenizer.decode(Walk(forced, tokenizer).draw(1), skip_special_tokens=False)
    [(name, arguments), *_] = calls_in(dialect, text, {"f": one, "g": other})
    assert arguments == {"place": {"f": "Paris", "g": "Oslo"}[name]}


@pytest.mark.parametrize(
    "parameters",
    [
        *({"properties": [1]}, {"required": 5}, {"required": [1]}, 3, [1]),
        *({"$defs": [1]}, {"definitions": 3}, {"$defs": "x", "properties": {}}),
    ],
    ids=str,
)
def test_a_schema_that_is_none_is_named(parameters: object) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    with pytest.raises(UsageError, match=r"tools\[0\]"):
        parameters_of([tool])


TOKENS = tuple(each for each in CALLING if not each.bare and each is not dialects.HARMONY)


@pytest.mark.parametrize("dialect", TOKENS, ids=lambda each: each.name)
def test_a_reply_that_may_call_says_anything_and_its_calls_fit(dialect: Dialect) -> None:
    tokenizer = new_tokenizer(dialect)
    ids = added_ids(tokenizer)
    may = Forced(dialect=dialect, tools=CLOSED, must=False, ids=ids)
    opening, n_calls = may._opening, 0
    assert may.can_be_left_open
    for said in ("", "It rains, <tool, [TOOL and < |", "{}"):
        assert accepts(may, tokenizer, said)
    for seed in range(6):
        walk = Walk(may, tokenizer)
        text = "Let me see. "
        walk.matcher.consume_tokens(tokenizer.encode(text).ids)
        walk.matcher.consume_token(ids[opening])
        drawn = tokenizer.decode(walk.draw(seed), skip_special_tokens=False)
        reader = new_reader(dialect, "", CLOSED)
        parts = joined(reader.feed(text + opening + drawn) + reader.end())
        begun = [part.name for part in parts if isinstance(part, CallBegun)]
        arguments = [part.text for part in parts if isinstance(part, CallArguments)]
        n_calls += len(begun)
        assert begun
        assert all(is_fit((n, json.loads(a))) for n, a in zip(begun, arguments, strict=True))
    assert n_calls >= 6


@pytest.mark.parametrize("dialect", TOKENS, ids=lambda each: each.name)
def test_text_cannot_spell_the_mark_that_begins_a_call(dialect: Dialect) -> None:
    tokenizer = new_tokenizer(dialect)
    may = Forced(dialect=dialect, tools=TOOLS, must=False, ids=added_ids(tokenizer))
    plain = Tokenizer.from_str(Tokenizer(tokenizer.model).to_str())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    matcher = Walk(may, tokenizer).matcher

    spelled = plain.encode(may._opening).ids
    assert matcher.try_consume_tokens(spelled) < len(spelled)
    assert Walk(may, tokenizer).matcher.try_consume_tokens(spelled[:-1]) == len(spelled) - 1


def test_where_a_mark_is_no_token_nothing_is_left_open() -> None:
    for dialect in (dialects.HARMONY, dialects.HERMES, dialects.MISTRAL):
        assert not Forced(dialect=dialect, tools=TOOLS, must=False, ids={}).can_be_left_open


SEARCH = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
MIXED = {"weather": WEATHER, "web.search": SEARCH}
CITY = "<parameter=city>\n{}\n</parameter>\n<parameter=days>\n2\n</parameter>\n"


def mixed(dialect: Dialect, tokenizer: Tokenizer) -> Forced:
    ids = added_ids(tokenizer)
    return Forced(dialect=dialect, tools=MIXED, free={"web.search"}, must=False, ids=ids)


@pytest.mark.parametrize(
    ("name", "inside", "arguments"),
    [
        (
            "web.search",
            "<parameter=query>\ncats\n</parameter>\n<parameter=n>\n3\n</parameter>\n",
            {"query": "cats", "n": 3},
        ),
        ("web.search", "", {}),
        ("web.search", " <parameter=query>a < b</parameter>", {"query": "a < b"}),
        ("weather", CITY.format("Oslo"), {"city": "Oslo", "days": 2}),
        ("weather", CITY.format("Rome"), None),
        ("weather", "", None),
    ],
)
def test_in_tags_only_the_arguments_of_strict_functions_are_bound(
    name: str, inside: str, arguments: object
) -> None:
    dialect = dialects.QWEN_CODER
    tokenizer = new_tokenizer(dialect)
    call = f"<tool_call>\n<function={name}>\n{inside}</function>\n</tool_call>"

    assert accepts(mixed(dialect, tokenizer), tokenizer, call) is (arguments is not None)
    if arguments is not None:
        assert calls_in(dialect, call, MIXED) == [(name, arguments)]


def test_in_tags_a_function_of_any_parameters_can_be_given_some() -> None:
    tokenizer = new_tokenizer(dialects.QWEN_CODER)
    call = "<tool_call>\n<function=f>\n{}</function>\n</tool_call>"
    given = call.format("<parameter=a>\n1\n</parameter>\n")
    for schema, has_room in (
        ({"type": "object"}, True),
        ({"type": "object", "properties": {}}, False),
        ({"type": "object", "additionalProperties": False}, False),
    ):
        forced = Forced(dialect=dialects.QWEN_CODER, tools={"f": schema}, ids=added_ids(tokenizer))
        assert accepts(forced, tokenizer, given) is has_room
        assert accepts(forced, tokenizer, call.format(""))


CALL = "<tool_call>{}</tool_call>"
FIT = '{"city": "Oslo", "days": 2}'


@pytest.mark.parametrize(
    ("said", "is_allowed"),
    [
        (CALL.format('\n{"name": "web.search", "arguments": {"q": 1}}\n'), True),
        (CALL.format('{"name":"web.search","arguments":{ "q" :1}}'), True),
        (CALL.format('\n{"arguments": {"q": [1,2]}, "name": "web.search"}\n'), True),
        ("Well. " + CALL.format('{"name": "web.search", "arguments": {}}') + "\nDone.", True),
        (CALL.format('\n{"name":"weather","arguments":' + FIT + "}\n"), True),
        (CALL.format('\n{"arguments": {}, "name": "weather"}'), False),
        (CALL.format('\n{"name": "weather", "arguments": {"city":"Rome","days":2}}\n'), False),
    ],
)
def test_a_reply_that_may_call_orders_and_spaces_its_calls_as_it_likes(
    said: str, is_allowed: bool
) -> None:
    tokenizer = new_tokenizer(dialects.HERMES)

    assert accepts(mixed(dialects.HERMES, tokenizer), tokenizer, said) is is_allowed
