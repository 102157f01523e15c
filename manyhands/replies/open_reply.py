"""The grammar of a reply that may call, in families where no token of its own begins a call.

Llama 3 calls with a bare JSON object, and an answer may be one, too; GPT-OSS names in a message's
header whom it is for. So what binds a call is its beginning up to the function's name, and all
other text is what does not begin so: a regular expression and its complement. They are as wide as
the readers' (`calls.known_json_calls`, `harmony.py`), so that nothing is read as a call that was
not held to its schema.

In: functions by name with what binds their arguments, and the ids of the marks. Out: rules of
llguidance's Lark.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from manyhands.replies.dialect import Dialect
from manyhands.replies.harmony import HEADER_MARKS, MARKS
from manyhands.replies.tool_schemas import BLANK, json_rule

ANYTHING = r"/(?s:.*)/"
NEEDED = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")  # of Harmony's marks
GAPS, PASSED_OVER = r"[ \t\r\n]*", r"[ \t\r\n,;\[\]]*"
NAME_KEYS, ARGUMENT_KEYS = '"(name|function)"', '"(parameters|arguments)"'
IS_FUNCTION = '"type"{0}:{0}"function"{0},{0}'  # as Llama 3 often says first
TO = r"to=functions\."


def bare_reply(
    tools: Mapping[str, Any], dialect: Dialect, *, lead: str, opening: str, several: bool
) -> list[str]:
    """lead: the rule of a thought, or "". opening: the token that may begin a call, or ""."""
    names = "|".join(map(re.escape, tools))
    begun = rf"{_call_head(GAPS)}({names})\"(?s:.*)"
    thoughts = [rf"{GAPS}{_spelled(mark)}(?s:.*)" for mark in filter(None, dialect.thinking)]
    mark = spelling(dialect.calls[0])
    rules = [
        f"start: {lead} (FREE | calls)" + (f" ({opening} (MARKED | calls))*" if opening else ""),
        f"FREE: {text_but(mark, GAPS + begun, *thoughts)}",
        "calls: call" + (" (SEPARATOR? call)*" if several else ""),
        f"call: ({_each(tools)}) CLOSE",
        f"HEAD: /{BLANK}{_call_head(BLANK)}/",
        f"THEN: /{BLANK},{BLANK}{ARGUMENT_KEYS}{BLANK}:{BLANK}/",
        f"CLOSE: /{BLANK}\\}}/",
        "SEPARATOR: /[;,]/",
    ]
    if opening:  # the reader of what is marked passes over more
        rules.append(f"MARKED: {text_but(mark, PASSED_OVER + begun)}")
    for i, (name, schema) in enumerate(tools.items()):
        # One terminal up to where it differs from text: what may yet be text ends no shorter one.
        rules.append(f'H{i}: HEAD "{name}\\""')
        rules.append(f"f{i}: H{i} THEN {json_rule(schema, is_free=True)}")
    return rules


def harmony_reply(tools: Mapping[str, Any], ids: Mapping[str, int]) -> list[str]:
    start, channel, message, end = (f"<[{ids[mark]}]>" for mark in NEEDED)
    signs = [channel, *(f"<[{ids[m]}]>" for m in HEADER_MARKS[2:] if m in ids)]
    marks = [spelling(mark) for mark in MARKS]
    rules = [
        f"start: first next* ({end})?",
        "first: PLAIN (said | inside)? | call",
        f"next: {end} {start} (call | HEAD? (inside | said))",
        f"said: piece+ {message} FREE",
        "inside: piece* sign call",
        "piece: sign HEAD?",
        f"sign: {' | '.join(signs)}",
        f"call: RECIPIENT ({_each(tools)})",
        f"RECIPIENT: /[^<=]*{TO}/",
        r"THEN: /[ \t\r\n][^<]*/",
        f"HEAD: /[^<]+/ & ~/(?s:.*){TO}(?s:.*)/",
        f"PLAIN: {text_but(*marks, GAPS + TO + '(?s:.*)')}",
        f"FREE: {text_but(*marks)}",
    ]
    for i, (name, schema) in enumerate(tools.items()):
        rules.append(f'f{i}: "{name}" THEN? piece* {message} {json_rule(schema, is_free=True)}')
    return rules


def _each(tools: Mapping[str, Any]) -> str:
    return " | ".join(f"f{i}" for i in range(len(tools)))


def no_marks(marks: Iterable[str]) -> str:
    """Text whose letters spell none of the marks, as tokens of text could: a call would begin that
    nothing binds."""
    return text_but(*(spelling(mark) for mark in marks))


def spelling(mark: str) -> str:
    """What has the letters of this mark in it."""
    return f"(?s:.*){_spelled(mark)}(?s:.*)"


def text_but(*patterns: str) -> str:
    """Any text that none of these describes. They are one pattern: of seven complements that all
    had to hold, llguidance 1.9 lost what else could be said."""
    return f"{ANYTHING} & ~/({'|'.join(patterns)})/"


def _spelled(mark: str) -> str:
    return "".join(f"\\x{{{ord(char):x}}}" for char in mark)


def _call_head(gap: str) -> str:
    """What a call says before its function's name."""
    return rf'\{{{gap}({IS_FUNCTION.format(gap)})?{NAME_KEYS}{gap}:{gap}"'
