"""What is asked by bodies and words: of a gateway, of a witness, of who shares weights; grammars.

A grammar is compiled by a library in Rust, and followed for some tokens, as a last hop does for any
client. It may take as long as `protocol/guidance.py` says, on one thread of its own.
"""

import asyncio
import importlib.util
import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from ledger.checkpoint import Checkpoint, origin
from ledger.merkle import leaf_hash
from ledger.witness import AddCheckpoint, WitnessBook
from ledger.witness_http import ADD_CHECKPOINT, answer
from node.files import SharedFile, SharedWeights
from protocol.canonical import encode
from protocol.errors import ManyhandsError
from protocol.grammar import Grammar, Kind
from protocol.text import Tokenizer
from protocol.tracing import TraceParent
from tests.announcing import peer_of
from tests.fuzz.door_targets import errors_of_api, read_json
from tests.fuzz.harness import Target
from tests.ledger.spenders import ANN, SWARM, WITNESSES
from tests.protocol.test_drawing import TINY

_loop = asyncio.new_event_loop()
DIGEST, NOW_S = bytes(32), 1_790_000_000
ORIGIN = origin(SWARM, ANN.public_key, "spend")
FOLLOWED = 6  # tokens of an answer
COMPILING_MS, COMPILING_MIB = 1_500, 256  # "for a second at worst", on a quiet machine


@cache
def _compiled() -> Callable[[Grammar, int], object]:
    from protocol.guidance import Guidance

    tokenizer = Tokenizer.from_directory(TINY)
    guidance = Guidance(tokenizer)

    def follow(grammar: Grammar, seed: int) -> object:
        guide = guidance.compile(grammar)
        chance, ids = Random(seed), list[int]()
        while len(ids) < FOLLOWED and tokenizer.eos_ids.isdisjoint(ids):
            bars = guide.bars(ids, tokenizer.vocab_size)
            ids.append(chance.choice([n for n, bar in enumerate(bars) if bar == 0]))
        return ids

    return follow


def _grammar(data: bytes) -> object:
    return _compiled()(Grammar.parse(data.decode(errors="replace")), len(data))


def _schema(data: bytes) -> object:
    return _compiled()(Grammar.json_schema(data.decode(errors="replace")), len(data))


def _schemas() -> list[bytes]:
    person = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 6}, "n": {"enum": [1, None]}},
        "required": ["name"],
        "additionalProperties": False,
    }
    many = {
        "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}},
        "$ref": "#/$defs/a",
    }
    listed = {"type": "array", "items": {"type": "integer", "minimum": -5}, "maxItems": 3}
    return [json.dumps(schema).encode() for schema in (person, many, listed)]


def _grammars() -> list[bytes]:
    grammars = (
        *(Grammar.regex(text) for text in ("(yes|no)[.!]{1,3}", r"\d{4}-\d\d", "[^a]*")),
        Grammar.lark('start: word (" " word)*\nword: /[a-z]{1,8}/\n'),
        Grammar.json_object(),
    )
    return [str(grammar).encode() for grammar in grammars]


@cache
def _shared() -> SharedWeights:
    path = Path(__file__)
    stop = path.stat().st_size
    return SharedWeights(DIGEST, {"w": SharedFile(path, ((0, stop),))}, lambda: False)


def _weights_asked(data: bytes) -> object:
    return _loop.run_until_complete(_shared().handle(peer_of(1), data))


@cache
def _book() -> tuple[WitnessBook, TemporaryDirectory[str]]:
    place = TemporaryDirectory(prefix="manyhands-fuzz-")
    known = {ORIGIN: ANN.public_key}
    return WitnessBook.open(Path(place.name), "w0.example", WITNESSES[0], known.get), place


def _witness(data: bytes) -> object:
    found = answer(_book()[0], "POST", ADD_CHECKPOINT, data, NOW_S)
    assert found.status < 500, found
    return found.body


def _witness_bodies() -> list[bytes]:
    """Of one entry, and of two that nothing proves to extend it."""
    first, second = leaf_hash(b"first"), leaf_hash(b"second")
    notes = [Checkpoint(ORIGIN, size, root).sign(ANN) for size, root in ((1, first), (2, second))]
    asked = AddCheckpoint(0, (), notes[0]), AddCheckpoint(1, (first,), notes[1])
    return [each.encode() for each in asked]


def _body(data: bytes) -> object:
    """Any body, as each path of the gateway reads it, and what it makes of it first."""
    from pydantic import ValidationError

    from manyhands.gateway import asked
    from manyhands.gateway.asked_responses import ResponsesAsked
    from manyhands.gateway.complaints import invalid
    from manyhands.gateway.formats import grammar_of

    given, taken = read_json(data), list[object]()
    kinds = asked.CompletionAsked, asked.EmbeddingsAsked, asked.TokenizeAsked
    for kind in (*kinds, asked.DetokenizeAsked, ResponsesAsked):
        try:
            body = kind.model_validate(given)
        except ValidationError as error:
            taken.append(str(invalid(error.errors())))
            continue
        if isinstance(body, ResponsesAsked):
            body = body.chat()
        if isinstance(body, asked.Drawn):
            grammar_of(body)
        taken.append(body.ignored())
    return taken


def _bodies() -> list[bytes]:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    told = {"type": "function_call_output", "call_id": "c", "output": "4"}
    said = {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
    schema = {"type": "json_schema", "name": "x", "schema": {"type": "object"}}
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    bodies = (
        {"model": "tiny", "prompt": ["a", "b"], "max_tokens": 3, "logprobs": 2, "echo": True},
        {"model": "tiny", "prompt": [[1, 2]], "guided_regex": "a+", "min_p": 0.1, "seed": 3},
        {"model": "tiny", "input": ["a"], "encoding_format": "base64", "dimensions": 8},
        {"prompt": "Hi", "add_special_tokens": False},
        {"tokens": [1, 2, 3]},
        {"model": "tiny", "input": [said, call, told], "tools": [tool], "text": {"format": schema}},
        {"model": "tiny", "input": "Hi", "instructions": "Be kind", "tool_choice": "auto"},
    )
    return [json.dumps(body).encode() for body in bodies]


def _trace(data: bytes) -> object:
    trace = TraceParent.parse(data.decode("latin-1"))
    assert trace is None or TraceParent.parse(str(trace)) == trace
    return trace


HAS_GRAMMARS = importlib.util.find_spec("llguidance") is not None
_COSTS: dict[str, Any] = {
    "max_ms": COMPILING_MS,
    "max_mib": COMPILING_MIB,
    "clock": time.process_time_ns,
}
_GRAMMAR = (
    Target(
        name="grammar",
        parse=_grammar,
        seeds=_grammars,
        words=(*(f"{kind}:".encode() for kind in Kind), b"{1,99}", b"(a|b)*", b"start: ", b" | "),
        **_COSTS,
    ),
    Target(name="grammar-schema", parse=_schema, seeds=_schemas, shape="json", **_COSTS),
)
TARGETS = (
    *(_GRAMMAR if HAS_GRAMMARS else ()),
    Target(
        name="weights-asked",
        parse=_weights_asked,
        seeds=lambda: [encode([DIGEST, "w", 0, 64]), encode([DIGEST, "w", 7, 1])],
        shape="cbor",
    ),
    Target(name="witness-body", parse=_witness, seeds=_witness_bodies),
    Target(
        name="gateway-bodies",
        parse=_body,
        seeds=_bodies,
        shape="json",
        errors=(*errors_of_api(), ManyhandsError),
    ),
    Target(name="trace", parse=_trace, seeds=lambda: [f"00-{'a' * 32}-{'b' * 16}-01".encode()]),
)
