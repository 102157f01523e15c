"""The grammar of a reply that must call, or that may: in the dialect's own marks, with arguments
that fit.

In: a dialect, the tools that may be called, and the ids of those marks that are tokens of their
own: the library takes added tokens like `<this>` for special ones, which text cannot spell. Out:
a grammar in llguidance's variant of Lark. A model that thinks may think first.
"""

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from manyhands.replies.calls import is_text
from manyhands.replies.dialect import (
    DEEPSEEK,
    DEEPSEEK_FENCED,
    HARMONY,
    LLAMA,
    MISTRAL,
    MISTRAL_NAMED,
    PHI,
    QWEN_CODER,
    Dialect,
)
from manyhands.replies.harmony import MARKS
from manyhands.replies.open_reply import (
    ANYTHING,
    NEEDED,
    bare_reply,
    harmony_reply,
    no_marks,
)
from manyhands.replies.tool_schemas import (
    ANY_ARGUMENTS,
    BLANK,
    defs_of,
    json_rule,
    without_defs,
)
from protocol.errors import UsageError
from protocol.grammar import Grammar

MAX_TOOLS = 128
GAP = f"GAP: /{BLANK}/"
ANY_TAGGED = (  # a parameter of any name, as `calls.tagged_calls` reads it
    "any: PARAMETER value",
    f"PARAMETER: /{BLANK}<parameter=[^<>\\n]{{1,256}}>/",
    f'value[suffix="</parameter>"]: {ANYTHING}',
    f"CLOSE: /{BLANK}<\\/function>{BLANK}/",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forced:
    """What a reply must be. tools: the functions that may be called, by name, with the schema of
    their parameters. free: those of them that any arguments will do for. several: whether it may
    call more than once. must: whether it has to; one that may says anything before and after, or
    nothing else, and spaces its calls as it likes. ids: of added tokens."""

    dialect: Dialect
    tools: Mapping[str, Mapping[str, Any]]
    free: Set[str] = frozenset()
    several: bool = True
    must: bool = True
    thinks: bool = False  # the prompt ended in the mark that begins a thought
    ids: Mapping[str, int]

    def __post_init__(self) -> None:
        if not self.dialect.has_calls:
            raise UsageError(
                "this model's chat template knows no tools",
                hint='leave out "tools", or ask another',
            )
        if not 0 < len(self.tools) <= MAX_TOOLS:
            raise UsageError(f"{len(self.tools)} tools; from 1 to {MAX_TOOLS} can be offered")

    def grammar(self) -> Grammar:
        """As a request takes it.

        Raises:
            BadGrammar: the tools' schemas are too large together.
        """
        return Grammar.lark(self.lark())

    @property
    def can_be_left_open(self) -> bool:
        """Whether a call's beginning is told from all other text: the marks around calls and
        thoughts are tokens of their own. `open_reply.py` tells what begins a bare one."""
        dialect = self.dialect
        marks = [] if dialect.bare else [self._opening]
        if dialect.name == HARMONY.name:
            marks = list(NEEDED)
        return all(mark in self.ids for mark in (*marks, *filter(None, dialect.thinking)))

    @property
    def _opening(self) -> str:
        marks_all = self.dialect.name in (DEEPSEEK.name, DEEPSEEK_FENCED.name)
        return self.dialect.silent[0] if marks_all else self.dialect.calls[0]

    @property
    def _closes(self) -> bool:
        """Whether a mark ends its calls, so that what follows is surely text."""
        return bool(self.dialect.calls[1])

    def lark(self) -> str:
        if self.must:
            rules = [*self._thought(), *self._calls()]
            return "\n".join([f"start: {self._lead()} calls", *rules]) + "\n"
        if self.dialect.name == HARMONY.name:
            return "\n".join(harmony_reply(self._bound, self.ids)) + "\n"
        if self.dialect.bare:
            opening = self._mark(self._opening) if self._opening in self.ids else ""
            rules = bare_reply(
                self._bound, self.dialect, lead=self._lead(), opening=opening, several=self.several
            )
            return "\n".join([*rules, *self._thought()]) + "\n"
        free = f"FREE: {no_marks([self._opening])}"
        calls = "(calls FREE)?" if self._closes else "calls?"
        rules = [f"start: {self._lead()} FREE {calls}", free, *self._thought(), *self._calls()]
        return "\n".join(rules) + "\n"

    def _lead(self) -> str:
        if self.dialect.name == HARMONY.name:
            return "thought?"
        if not self.dialect.thinking[0]:
            return ""
        return "thought" if self.thinks else "thought?"

    def _thought(self) -> list[str]:
        if self.dialect.name == HARMONY.name:
            begin = f'{self._mark("<|channel|>")} "analysis" {self._mark("<|message|>")}'
            end = f'{self._mark("<|end|>")} {self._mark("<|start|>")} "assistant"'
            return [f"thought: {begin} THOUGHT {end}", f"THOUGHT: {no_marks(MARKS)}"]
        opened, closed = self.dialect.thinking
        if not opened:
            return []
        begin = "" if self.thinks else self._mark(opened)
        if closed in self.ids:
            return [f"thought: {begin} THOUGHT {self._mark(closed)} BLANK",
                    f"THOUGHT: {no_marks([closed])}", r"BLANK: /\s{0,2}/"]  # fmt: skip
        return [f"thought: {begin} inner BLANK", f"inner[suffix={json.dumps(closed)}]: {ANYTHING}",
                r"BLANK: /\s{0,2}/"]  # fmt: skip

    def _calls(self) -> list[str]:
        opened, closed = self.dialect.calls
        match self.dialect.name:
            case MISTRAL.name | PHI.name:
                mark, end = self._mark(opened), self._mark(closed)
                schema = self._list() | self._defs()
                return [f"calls: {mark} list {end}", f"list: {self._json(schema)}"]
            case LLAMA.name:
                return [f"calls: {self._json(self._one('parameters') | self._defs())}"]
            case MISTRAL_NAMED.name:
                begin = f"{self._mark(opened)} NAME {self._mark('[ARGS]')} "
                return self._each(begin, "", "")
            case DEEPSEEK.name:
                begin = f"{self._mark(opened)} NAME {self._mark('<｜tool▁sep｜>')} "
                return self._each(begin, f" {self._mark(closed)}", "")
            case DEEPSEEK_FENCED.name:
                begin = f'{self._mark(opened)} "function" {self._mark("<｜tool▁sep｜>")} NAME'
                return self._each(
                    f'{begin} "\\n```json\\n" ', f' "\\n```" {self._mark(closed)}', "\\n"
                )
            case HARMONY.name:
                begin = f'{self._mark("<|channel|>")} "commentary to=functions." NAME " "'
                begin += f' {self._mark("<|constrain|>")} "json" {self._mark("<|message|>")} '
                return self._each(begin, "", None)
            case QWEN_CODER.name:
                return self._tagged()
            case _:
                call = f"{self._mark(opened)} {self._gap} one {self._gap} {self._mark(closed)}"
                more = f" ({self._gap} call)*" if self.several else ""
                one = self._json(self._one("arguments") | self._defs())
                return [f"calls: call{more}", f"call: {call}", f"one: {one}", GAP]

    def _each(self, before: str, after: str, between: str | None) -> list[str]:
        """A rule for each function: its name is no part of the JSON. between: None: never two."""
        rules = [
            f"f{i}: {before.replace('NAME', json.dumps(name))}{self._json(schema)}{after}"
            for i, (name, schema) in enumerate(self._bound.items())
        ]
        names = " | ".join(f"f{i}" for i in range(len(rules)))
        gap = f'"{between}" ' if between else ""
        more = f" ({gap}call)*" if self.several and between is not None else ""
        return self._around([f"calls: call{more}", f"call: {names}", *rules])

    def _around(self, rules: list[str]) -> list[str]:
        """DeepSeek marks all the calls together, too."""
        if self.dialect.name not in (DEEPSEEK.name, DEEPSEEK_FENCED.name):
            return rules
        begin, end = (self._mark(mark) for mark in self.dialect.silent)
        inner = rules[0].replace("calls:", "inside:")
        return [f"calls: {begin} inside {end}", inner, *rules[1:]]

    def _tagged(self) -> list[str]:
        opened, closed = (self._mark(mark) for mark in self.dialect.calls)
        rules: list[str] = []
        for i, (name, schema) in enumerate(self.tools.items()):
            if name in self.free or ("properties" not in schema and _is_open(schema)):
                # A terminal up to where it differs: no other can take its beginning for its own.
                head = f"/{BLANK}<function={name.replace('.', '[.]')}>/"
                rules += [f"f{i}: H{i} any* CLOSE", f"H{i}: {head}"]
                continue
            begin = json.dumps(f"\n<function={name}>\n")
            inner = []
            required = schema.get("required") or ()
            for j, (parameter, kind) in enumerate((schema.get("properties") or {}).items()):
                tag = json.dumps(f"<parameter={parameter}>\n")
                inner.append(f"p{i}_{j}" + ("" if parameter in required else "?"))
                defs = {"$defs": defs_of(schema, i)}
                kind = without_defs(kind, i) | defs if isinstance(kind, Mapping) else kind
                rules.append(f"p{i}_{j}: {tag} {_untagged(kind)}")
            rules.append(f'f{i}: {begin} {" ".join(inner)} "</function>\\n"')
        names = " | ".join(f"f{i}" for i in range(len(self.tools)))
        more = f" ({self._gap} call)*" if self.several else ""
        text = f'text[suffix="\\n</parameter>\\n"]: {ANYTHING}'
        call = f"call: {opened} ({names}) {closed}"
        return [f"calls: call{more}", call, *rules, text, GAP, *ANY_TAGGED]

    def _list(self) -> dict[str, Any]:
        limit = {} if self.several else {"maxItems": 1}
        return {"type": "array", "items": self._one("arguments"), "minItems": 1} | limit

    def _one(self, arguments: str) -> dict[str, Any]:
        calls = [
            _call("name", arguments, {"const": name}, without_defs(schema, at))
            for at, (name, schema) in enumerate(self.tools.items())
            if name not in self.free
        ]
        if free := [name for name in self.tools if name in self.free]:
            names = {"enum": free}
            calls.append(_call("name", arguments, names, ANY_ARGUMENTS))
            calls.append(_call(arguments, "name", ANY_ARGUMENTS, names))
        return calls[0] if len(calls) == 1 else {"anyOf": calls}

    def _defs(self) -> dict[str, Any]:
        """What all the tools' schemas refer to, for the root of the schema that holds them."""
        defs = {
            name: schema
            for at, tool in enumerate(self._bound.values())
            for name, schema in defs_of(tool, at).items()
        }
        return {"$defs": defs} if defs else {}

    @property
    def _bound(self) -> dict[str, Mapping[str, Any]]:
        """What binds the arguments of each tool."""
        tools = self.tools.items()
        return {name: ANY_ARGUMENTS if name in self.free else schema for name, schema in tools}

    @property
    def _gap(self) -> str:
        return '"\\n"' if self.must else "GAP"

    def _json(self, schema: Any) -> str:
        return json_rule(schema, is_free=not self.must)

    def _mark(self, mark: str) -> str:
        """A mark in the grammar: a token if it is one, else its text."""
        if not mark:
            return ""
        return f"<[{self.ids[mark]}]>" if mark in self.ids else json.dumps(mark, ensure_ascii=False)


def _call(first: str, then: str, *schemas: Mapping[str, Any]) -> dict[str, Any]:
    """A call as an object, its parts in this order, as the library has them."""
    return {
        "type": "object",
        "properties": dict(zip((first, then), schemas, strict=True)),
        "required": [first, then],
        "additionalProperties": False,
    }


def _is_open(schema: Mapping[str, Any]) -> bool:
    """Whether it has room for parameters that it does not name."""
    return schema.get("additionalProperties") is not False


def _untagged(kind: Any) -> str:
    """A parameter's text and the tag after it; texts stand there without quotes."""
    closed = '"\\n</parameter>\\n"'
    if not is_text(kind):
        return f"{json_rule(kind)} {closed}"
    if not isinstance(kind.get("enum"), list):
        return "text"
    return f"({' | '.join(json.dumps(value) for value in kind['enum'])}) {closed}"
