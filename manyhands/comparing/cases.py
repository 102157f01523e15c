"""The prompts of a comparison, from a file of JSON lines that its owner wrote.

    {"id": "q1", "prompt": "2 + 2 =", "expect": "4"}
    {"id": "q2", "messages": [{"role": "user", "content": "…"}], "regex": "^Yes"}
    {"id": "q3", "prompt": "…", "schema": {"type": "object"}}

What grades an answer stands beside its prompt: `expect` (the same but for blanks at the ends and
case), `regex` (found somewhere), `schema` (JSON that fits). One without any of them is left to a
judge or to people.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.errors import UsageError

MAX_BYTES, MAX_CASES = 64 << 20, 100_000
GRADERS = ("expect", "regex", "schema")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One prompt. At most one of expect, regex and schema is given."""

    id: str
    messages: tuple[Mapping[str, Any], ...]
    expect: str | None = None
    regex: re.Pattern[str] | None = None
    schema: Mapping[str, Any] | None = None

    @property
    def grades_itself(self) -> bool:
        return any(value is not None for value in (self.expect, self.regex, self.schema))


def read_cases(path: Path) -> list[Case]:
    """
    Raises:
        UsageError: what is wrong with the file, and in which line.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} has more than {MAX_BYTES >> 20} MiB")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    cases: dict[str, Case] = {}
    for at, line in enumerate(lines, 1):
        if line.strip():
            case = _case(f"{path}, line {at}", line, str(at))
            if case.id in cases:
                raise UsageError(f"{path}, line {at}: the id {case.id!r} stands there before")
            cases[case.id] = case
    if not 0 < len(cases) <= MAX_CASES:
        raise UsageError(f"{path} has {len(cases)} prompts; 1 to {MAX_CASES} can be compared")
    return list(cases.values())


def _case(where: str, line: str, number: str) -> Case:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UsageError(f"{where} is not a JSON object")
    given = [name for name in GRADERS if fields.get(name) is not None]
    if len(given) > 1:
        raise UsageError(f"{where} has {' and '.join(given)}; one of them grades")
    return Case(
        id=str(fields.get("id", number)),
        messages=_messages(where, fields),
        expect=_text(where, fields, "expect"),
        regex=_pattern(where, _text(where, fields, "regex")),
        schema=_schema(where, fields.get("schema")),
    )


def _messages(where: str, fields: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    if (prompt := _text(where, fields, "prompt")) is not None:
        return ({"role": "user", "content": prompt},)
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise UsageError(f"{where} has neither a prompt nor messages")
    if not all(isinstance(message, dict) for message in messages):
        raise UsageError(f'{where}: each message is {{"role": …, "content": …}}')
    return tuple(messages)


def _text(where: str, fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{where}: {name} is not a text")
    return value


def _pattern(where: str, source: str | None) -> re.Pattern[str] | None:
    if source is None:
        return None
    try:
        return re.compile(source)
    except (re.error, RecursionError) as error:
        raise UsageError(f"{where}: the regex does not compile: {error}") from error


def _schema(where: str, schema: Any) -> Mapping[str, Any] | None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if schema is None:
        return None
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise UsageError(f"{where}: this is not a JSON schema: {error.message}") from error
    if not isinstance(schema, dict):
        raise UsageError(f"{where}: a schema is a JSON object here")
    return schema
