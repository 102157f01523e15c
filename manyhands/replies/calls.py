"""Calls as models write them, read character by character: parts come out while it is written.

Each reader is a generator that is sent one character at a time and tells parts to its `Teller`:
`json_calls` reads objects such as `{"name": "f", "arguments": {…}}`, one or more, in a list or
not; `named_calls` a name, a separator and a value; `tagged_calls` Qwen3-Coder's elements. What is
no call raises `Malformed`; the text is then what it looks like: text.
"""

import json
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from typing import Any

from manyhands.replies.parts import CallArguments, CallBegun, Part, Said

BLANK = " \t\r\n"
NAMES = ('"name"', '"function"')
ARGUMENTS = ('"arguments"', '"parameters"')
MAX_NAME_CHARS = 256
NAMED_FIRST = re.compile(  # and read one character further
    r"""\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"(?:name|function)"\s*:\s*"([^"\\]*)"(?s:.)\Z"""
)

Chars = Generator[None, str, str]  # sent characters, returns the one after what it read
Reading = Generator[None, str, None]


class Malformed(Exception):
    """No call begins like this."""


class Teller:
    """What readers say to: counts calls, and keeps the text of one until it is surely a call."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        """known: the tools on offer, each with the JSON schema of its parameters."""
        self.known = known
        self.parts: list[Part] = []
        self.n_begun = 0

    def begin(self, name: str) -> None:
        if not 0 < len(name) <= MAX_NAME_CHARS:
            raise Malformed
        self.parts.append(CallBegun(self.n_begun, name))
        self.n_begun += 1

    def argue(self, text: str) -> None:
        self.parts.append(CallArguments(self.n_begun - 1, text))


class CallsReader:
    """The calls between two marks."""

    def __init__(self, reading: Callable[[Teller], Reading], teller: Teller, opening: str) -> None:
        """opening: the mark before them, "" for none."""
        self._teller, self._calls_before = teller, teller.n_begun
        self._raw: list[str] = [opening]
        self._reading: Reading | None = reading(teller)
        next(self._reading)

    def feed(self, text: str) -> list[Part]:
        """The parts that this text completes."""
        if self._reading is None:
            return [Said(text)]
        for at, char in enumerate(text):
            try:
                self._reading.send(char)
            except Malformed:
                self._reading = None
                before = "" if self.has_called else "".join(self._raw)
                return [*self._taken(), Said(before + text[at:])]
            self._raw.append(char)
        return self._taken()

    @property
    def has_called(self) -> bool:
        return self._teller.n_begun > self._calls_before

    def end(self, closing: str = "") -> list[Part]:
        """All is read, up to the mark `closing`. What held no call was text, marks and all."""
        was_read, self._reading = self._reading is not None, None
        if self.has_called:
            return self._taken()
        return [Said(("".join(self._raw) if was_read else "") + closing)]

    def _taken(self) -> list[Part]:
        taken, self._teller.parts = self._teller.parts, []
        return taken


def json_calls(teller: Teller) -> Reading:
    """Objects with a name and arguments, in a list or one after another."""
    while True:
        char = yield from _past(BLANK + "[],;", (yield))
        if char != "{":
            raise Malformed
        yield from _json_call(teller)


def known_json_calls(teller: Teller) -> Reading:
    """The same where nothing marks a call: it names a function on offer, and does so first."""
    held = Teller(teller.known)
    held.n_begun = teller.n_begun
    reading = json_calls(held)
    next(reading)
    raw = ""  # since the last one was named
    while True:
        char = yield
        raw += char
        reading.send(char)
        for part in held.parts:
            if isinstance(part, CallBegun):
                named = NAMED_FIRST.search(raw)
                if named is None or named[1] != part.name or part.name not in teller.known:
                    raise Malformed
                raw = ""
        teller.parts += held.parts
        teller.n_begun, held.parts = held.n_begun, []


def named_calls(separator: str) -> Callable[[Teller], Reading]:
    """A name, the separator, a value. DeepSeek-V3 writes `function`, the separator, a name, a
    line's end and the value in a fence; V3.1 the name at once."""

    def reading(teller: Teller) -> Reading:
        while True:
            name = (yield from _until(separator)).strip(BLANK)
            if name == "function":
                name = (yield from _until("\n")).strip(BLANK)
            teller.begin(name)
            char = yield
            while char not in "{[":
                char = yield
            yield from _value(char, teller.argue, reads_on=False)

    return reading


def tagged_calls(teller: Teller) -> Reading:
    """`<function=f><parameter=p>value</parameter>…</function>`, as Qwen3-Coder writes it."""
    while True:
        if (yield from _until("<function=")).strip(BLANK):
            raise Malformed
        name = yield from _until(">")
        teller.begin(name.strip(BLANK))
        texts = _texts(teller.known.get(name.strip(BLANK)))
        opening = "{"
        while True:
            tag = (yield from _until(">")).strip(BLANK)
            if not tag.startswith("<parameter="):
                break
            parameter = tag.removeprefix("<parameter=")
            raw = (yield from _until("</parameter>")).removeprefix("\n").removesuffix("\n")
            value = _typed(raw, as_text=parameter in texts)
            teller.argue(f"{opening}{json.dumps(parameter)}: {value}")
            opening = ", "
        teller.argue("}" if opening == ", " else "{}")


def _json_call(teller: Teller) -> Reading:
    """One object, after its brace. Arguments are told as they come once the name is known."""
    name, kept, told = False, "", False
    char = yield from _past(BLANK, (yield))
    while char != "}":
        if char != '"':
            raise Malformed
        key: list[str] = []
        char = yield from _value(char, key.append)
        if (yield from _past(BLANK, char)) != ":":
            raise Malformed
        char = yield from _past(BLANK, (yield))
        word, value = "".join(key), list[str]()
        if word in ARGUMENTS and name and char != '"':
            told = True
            char = yield from _value(char, teller.argue)
        else:
            char = yield from _value(char, value.append)
        if word in NAMES and not name and value and value[0] == '"':
            teller.begin(_string("".join(value)))
            name = True
        elif word in ARGUMENTS and value:
            raw = "".join(value)
            kept = _string(raw) if raw.startswith('"') else raw
        if name and kept:
            told = True
            teller.argue(kept)
            kept = ""
        char = yield from _past(BLANK, char)
        if char == ",":
            char = yield from _past(BLANK, (yield))
    if not name:
        raise Malformed
    if not told:
        teller.argue("{}")


def _value(char: str, tell: Callable[[str], None], *, reads_on: bool = True) -> Chars:
    """One JSON value that begins with `char`. Returns the character after it, if asked to."""
    depth = 0
    while True:
        tell(char)
        closed = char in '"}]'
        if char == '"':
            yield from _rest_of_string(tell)
        elif char in "{[":
            depth += 1
        elif char in "}]":
            depth -= 1
        if depth == 0 and closed and not reads_on:
            return ""
        after = yield
        if depth == 0 and (closed or after in BLANK + ",:}]"):
            return after
        char = after


def _rest_of_string(tell: Callable[[str], None]) -> Reading:
    while True:
        char = yield
        tell(char)
        if char == "\\":
            tell((yield))
        elif char == '"':
            return


def _past(skipped: str, char: str) -> Chars:
    while char in skipped:
        char = yield
    return char


def _until(mark: str) -> Chars:
    """The text before `mark`, which is read too."""
    text = ""
    while not text.endswith(mark):
        text += yield
    return text.removesuffix(mark)


def _string(raw: str) -> str:
    try:
        value = json.loads(raw)
        if not isinstance(value, str):
            raise Malformed
        value.encode()  # half a character can be written in JSON, and sent nowhere
    except ValueError as error:
        raise Malformed from error
    return value


def is_text(schema: Any) -> bool:
    """Whether a value of this schema is a string."""
    if not isinstance(schema, Mapping):
        return False
    if isinstance(values := schema.get("enum"), list):
        return bool(values) and all(isinstance(value, str) for value in values)
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return "string" in kinds
    choices = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(choices, list):  # text, or nothing: what stands there is text
        return any(isinstance(each, Mapping) and each.get("type") == "string" for each in choices)
    return kinds == "string"


def _texts(schema: Any) -> set[str]:
    """The parameters that are strings."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping):
        return set()
    return {name for name, each in properties.items() if is_text(each)}


def _no_json(constant: str) -> Any:
    raise ValueError(constant)


def _typed(raw: str, *, as_text: bool) -> str:
    """An element's text as JSON: what its schema does not call a string may be any value."""
    if not as_text:
        with suppress(ValueError, RecursionError):
            json.loads(raw, parse_constant=_no_json)
            return raw.strip(BLANK)
    return json.dumps(raw, ensure_ascii=False)
