"""A few hundred inputs for each parser, and what once failed."""

import time
from collections.abc import Callable

import pytest

from tests.fuzz.harness import Target, fuzz
from tests.fuzz.targets import ALL, TARGETS

INPUTS = 150

_TAB = b"\x86\x50%b\x58\x20%b\x01\x02\x87%b\x00\x00\x00\x00\x00\x00\x00"
_PAGE = b"\x82\x82%b%b\xf5" % tuple(_TAB % (bytes(16), bytes(32), n) for n in (b"\x01", b"\x02"))

# What a fuzzer found, by the parser that it broke: each ended in another error than ours.
FOUND = {
    "a size without end in a table of tensors": (
        "safetensors-table",
        b'{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,48]}}',
    ),
    "a place without end in a header": (
        "safetensors-header",
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,Infinity]}}',
    ),
    "a manifest with blocks without end": (
        "manifest",
        b'{"schema":"manyhands/manifest/v2","name":"x","licence":"","architecture":"A",'
        b'"n_blocks":Infinity}',
    ),
    "a proof of an entry without end": (
        "proof",
        b'{"schema":"manyhands/ledger-proof/v1","entry":Infinity,"swarm":"","peer":'
        b'"12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"}',
    ),
    "half a character in a checkpoint": (
        "checkpoint",
        b"origin\xed\xa0\x80\n5\n" + b"A" * 43 + b"=\n\n\xe2\x80\x94 origin\xed\xa0\x80 AAAA\n",
    ),
    "a loop that is broken where there is none": ("chat-template", b"{% break %}"),
    "a template nested too deeply": ("chat-template", b"{{" + b"(" * 5000),
    "a template that would take all memory": ("chat-template", b"{{ 'x' * 10000000000 }}"),
    "a template that writes down lists of lists": (
        "chat-template",
        b"{% set a = [[[1] * 999] * 999] * 999 %}{{ a | tojson }}",
    ),
    "a template that writes JSON of JSON of JSON": (
        "chat-template",
        b"{{ messages" + b" | tojson" * 64 + b" }}",
    ),
    "a template that doubles in a loop": (
        "chat-template",
        b"{% set n = namespace(a='x') %}{% for i in range(99) %}"
        b"{% set n.a = n.a + n.a %}{% endfor %}",
    ),
    "a template that says more than any context holds": (
        "chat-template",
        b"{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
    ),
    "a template that doubles by ~": (
        "chat-template",
        b"{% set n = namespace(a='x') %}{% for i in range(99) %}"
        b"{% set n.a = n.a ~ n.a %}{% endfor %}",
    ),
    "a template that doubles by a filter": (
        "chat-template",
        b"{% set n = namespace(a='x') %}{% for i in range(99) %}"
        b"{% set n.a = [n.a, n.a] | join %}{% endfor %}",
    ),
    "a template that doubles by a method": (
        "chat-template",
        b"{% set n = namespace(a='x') %}{% for i in range(99) %}"
        b"{% set n.a = ''.join([n.a, n.a]) %}{% endfor %}",
    ),
    "a template that doubles in a block": (
        "chat-template",
        b"{% set n = namespace(a='x') %}{% for i in range(99) %}"
        b"{% set n.a %}{{ n.a }}{{ n.a }}{% endset %}{% endfor %}",
    ),
    "a template that doubles in a macro": (
        "chat-template",
        b"{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{% set n = namespace(a='x') %}"
        b"{% for i in range(99) %}"
        b"{% set n.a = m(n.a) %}{% endfor %}",
    ),
    "a template that doubles by its own letters": (
        "chat-template",
        b"{% set n = namespace(a='x') %}{% for i in range(99) %}"
        b"{% set n.a = n.a.replace('x', 'xx') %}{% endfor %}",
    ),
    "a template that writes down a list that holds itself twice, forty times": (
        "chat-template",
        b"{% set n = namespace(a=[1]) %}{% for i in range(40) %}{% set n.a = [n.a, n.a] %}"
        b"{% endfor %}{{ n.a }}",
    ),
    "a template that keeps all it made": (
        "chat-template",
        b"{% set n = namespace(a=[]) %}{% for i in range(9999) %}{% set n.a = n.a + [('x' "
        b"* 9999) ~ i] %}{% endfor %}",
    ),
    "a template that keeps parts of a long text": (
        "chat-template",
        b"{% set n = namespace(a=[], b='x') %}{% for i in range(22) %}{% set n.b = n.b ~ n"
        b".b %}{% endfor %}{% for i in range(9999) %}{% set n.a = [n.a, n.b[1:]] %}{% endf"
        b"or %}",
    ),
    "a template that goes round and round": (
        "chat-template",
        b"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    ),
    "a template that calls itself twice": (
        "chat-template",
        b"{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{"
        b"{ m(60) }}",
    ),
    "a template that pads by a filter": (
        "chat-template",
        b"{{ '%999999999d' | format(1) }}",
    ),
    "a template that pads in braces": (
        "chat-template",
        b"{{ '{:999999999}'.format(1) }}",
    ),
    "a template that pads in braces by an argument": (
        "chat-template",
        b"{{ '{:{}}'.format(1, 999999999) }}",
    ),
    "a template that centres": (
        "chat-template",
        b"{{ 'x' | center(999999999) }}",
    ),
    "a template that justifies": (
        "chat-template",
        b"{{ 'x'.ljust(999999999) }}",
    ),
    "a template that replaces letters by books": (
        "chat-template",
        b"{{ ('x' * 9999) | replace('x', 'y' * 9999) }}",
    ),
    "a template that writes numbers of a million digits": (
        "chat-template",
        b"{% set n = namespace(a=9) %}{% for i in range(40) %}{% set n.a = n.a * n.a %}{% "
        b"endfor %}",
    ),
    "a template that rounds to the left": (
        "chat-template",
        b"{{ 5 | round(-999999999) }}",
    ),
    "a template that pads by a gigabyte": ("chat-template", b"{{ '%999999999d' % 1 }}"),
    "a template that would count for ever": ("chat-template", b"{{ 9 ** 9 ** 9 }}"),
    "settings of a tokenizer that are a text": (
        "tokenizer-config",
        b'{"added_tokens_decoder": "text"}',
    ),
    "a merge of nothing, on which the tokenizers library panics": (
        "tokenizer",
        b'{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"a":0,"":1,"b":2},'
        b'"continuing_subword_prefix":"abc","merges":["a b"]}}',
    ),
    "a page that has one tab twice, with two meters": ("settle-page", _PAGE),
}  # fmt: skip


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_whatever_bytes_come_a_parser_gives_a_value_or_a_typed_error(target: Target):
    report = fuzz(target, INPUTS)

    assert [(each.why, each.where, each.data.hex()) for each in report.findings] == []
    assert report.n_inputs == INPUTS


@pytest.mark.parametrize("what", FOUND)
def test_what_once_broke_a_parser_is_a_typed_error(what: str):
    name, data = FOUND[what]
    target = TARGETS[name]

    with pytest.raises(target.errors):
        target.parse(data)


def test_the_harness_notices_what_it_is_for():
    def breaks(data: bytes) -> None:
        if data != b"seed":
            raise KeyError("none of ours")

    def idles(data: bytes) -> None:
        if data != b"seed":
            until_s = time.thread_time() + 0.06
            while time.thread_time() < until_s:
                pass

    def hoards(data: bytes) -> None:
        if data != b"seed":
            kept.append(bytearray(b"\x01") * (100 << 20))

    def found(parse: Callable[[bytes], None]) -> set[str]:
        target = Target(name="bad", parse=parse, seeds=lambda: [b"seed"])
        return {each.why.partition(":")[0] for each in fuzz(target, 2).findings}

    kept: list[bytearray] = []

    assert found(breaks) == {"KeyError"}
    assert found(idles) == {"time"}
    assert "memory" in found(hoards)
