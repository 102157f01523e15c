"""What a chat template may do is done as jinja2 does it; how much, is bounded."""

import sys
from collections import Counter
from typing import Any

import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from protocol.chat_template import GenerationBlocks, render_chat
from protocol.errors import BadModel, UsageError
from protocol.template_filters import READING, WALKING
from protocol.template_sandbox import METHODS

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind.\nAnd short.  "},
    {"role": "user", "content": "What's 2 + 2?", "tags": ["b", "a", "b"]},
    {"role": "assistant", "content": "<think>four</think>\n4", "calls": {"z": 1, "a": None}},
    {"role": "user", "content": "", "n": 3.25},
]
USUAL = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}{% endfor %}",
    "{% for m in messages %}{{ loop.index }}{{ loop.length }}{{ loop.last }}"
    "{{ loop.previtem.role if loop.previtem is defined }}"
    "{{ loop.nextitem.role if not loop.last }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ m.content }}{% else %}none{% endfor %}",
    "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% endif %}"
    "{{ rest | length }}{{ messages[::-1] | map(attribute='role') | join(', ') }}{{ 'abc'[-2:] }}",
    "{% set n = namespace(a='', seen=false) %}{% for m in messages %}"
    "{% set n.a = n.a ~ loop.index0 ~ m.content %}{% set n.seen = true %}{% endfor %}{{ n.a }}",
    "{% macro told(m, mark='#') %}{{ mark }}{{ m.content }}{{ caller() if caller }}{% endmacro %}"
    "{{ told(messages[0]) }}{{ told(messages[1], mark='>') }}"
    "{% call told(messages[2]) %}!{% endcall %}",
    "{{ messages[2].content.split('</think>')[-1].lstrip('\n') }}",
    "{{ messages[2].content.replace('think', 'x', 1) }}"
    "{{ messages[2].content | replace('t', '') }}",
    "{{ '%s is %d' % ('it', 5) }}{{ '%s' | format('x') }}{{ '{} {a:>4} {{}}'.format(1, a='b') }}",
    "{% for k, v in messages[2].calls.items() %}{{ k }}={{ v }};{% endfor %}"
    "{% for k, v in messages[2].calls | dictsort %}{{ k }}{% endfor %}{{ messages[2].calls }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
    "{{ messages[1].tags | unique | sort | join }}{{ [1, 2.5] | sum }}{{ 2.567 | round(1) }}",
    "{% set x %}{{ messages[0].content | indent(2) }}{% endset %}{{ x }}{{ x | upper }}",
    "{% for i in range(2, 9, 3) %}{% if i == 5 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
    "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "{% for t in [['a', ['b', 'c']]] recursive %}{{ t if t is string else loop(t) }}{% endfor %}",
    "{{ 7 * 6 }}{{ 2 ** 10 }}{{ 7 // 2 }}{{ -7 % 3 }}{{ 'ab' * 3 }}{{ [1] + [2, 3] }}"
    "{{ 'a' + 'b' }}{{ {'a': 1} }}",
    "{{ nothing }}{{ nothing | default('d') }}{{ none }}{{ true }}{{ 1.5 }}{{ 'a' in 'cab' }}",
    "{% generation %}{{ messages[2].content }}{% endgeneration %}",
)


@pytest.mark.parametrize("template", USUAL)
def test_what_templates_do_is_what_jinja2_makes_of_it(template: str):
    plain = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlocks, loopcontrols]
    )

    told = render_chat(template, MESSAGES, {})

    assert told == plain.from_string(template).render(messages=MESSAGES)
    assert told


@pytest.mark.parametrize("nested", ["| trim ", "[0]", ".b", "+ a ", "~ a ", " and a"])
def test_an_expression_twice_as_deep_takes_about_twice_as_long_to_read(nested: str):
    def n_calls(depth: int) -> int:
        calls: Counter[str] = Counter()
        sys.setprofile(lambda frame, event, arg: calls.update((event,)))
        try:
            render_chat("{{ a if false" + " else a " + nested * depth + "}}", [], {})
        except UsageError:
            pass  # there is no `a`
        finally:
            sys.setprofile(None)
        return calls["call"]

    assert n_calls(81) < 3 * n_calls(41)


def test_loops_within_loops_have_an_end():
    assert render_chat("{% for a in [1] %}" * 16 + "x" + "{% endfor %}" * 16, [], {}) == "x"
    with pytest.raises(BadModel, match="over 16 loops in loops"):
        render_chat("{% for a in [1] %}" * 17 + "x" + "{% endfor %}" * 17, [], {})


def test_a_long_conversation_stays_far_below_the_bounds():
    long = [{"role": "user", "content": "word " * 2000} for _ in range(800)]
    template = (
        "{% set n = namespace(last='') %}{% for m in messages %}<|{{ m['role'] }}|>"
        "{{ m.content | trim }}{% if '</x>' in m.content %}{{ m.content.split('</x>')[-1] }}"
        "{% endif %}{% set n.last = m.content %}{% endfor %}{{ n.last[:5] }}"
    )

    assert len(render_chat(template, long[:700], {})) > 6_900_000
    with pytest.raises(UsageError, match="more than 8000000"):
        render_chat(template, long, {})


def test_what_one_rendering_made_is_not_held_against_the_next():
    template = "{% for i in range(999) %}{% set x = ('x' * 9999) ~ i %}{% endfor %}done"

    assert [render_chat(template, MESSAGES, {}) for _ in range(30)] == ["done"] * 30


def test_filters_and_methods_are_those_that_grow_no_text_unseen():
    growing = {"center", "ljust", "rjust", "zfill", "expandtabs", "translate", "encode"}

    assert not growing & (METHODS | READING | WALKING)
