"""What an answer has to be: JSON, JSON of a schema, text that a pattern or a grammar describes.

In: a schema, a pattern, a grammar, as callers write them. Out: a value that says which of these it
is, and the text that it travels as, `KIND:TEXT`. Whether it makes sense is found out where it is
compiled: `guidance.py`. JSON has no white space where the schema leaves it open, so that an answer
cannot go on for ever without saying anything.
"""

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from protocol.asking import MAX_GRAMMAR_BYTES
from protocol.errors import BadGrammar, BadSchema

HINT = "docs/structured-output.md says what is supported"


class Kind(enum.StrEnum):
    JSON_OBJECT = "json_object"  # any JSON object; it has no text
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"  # as Rust's regex crate reads it, of the whole answer
    LARK = "lark"  # as llguidance reads it


@dataclass(frozen=True, slots=True)
class Grammar:
    """Of one answer.

    Raises:
        BadGrammar, BadSchema: it is empty, too large, or not what it says.
    """

    kind: Kind
    text: str = ""

    def __post_init__(self) -> None:
        if (self.kind is Kind.JSON_OBJECT) == bool(self.text):
            raise self.error("there is none" if not self.text else "it has no text")
        if len(self.text.encode(errors="replace")) > MAX_GRAMMAR_BYTES - len(self.kind) - 1:
            raise self.error(f"it has more than {MAX_GRAMMAR_BYTES >> 10} KiB")

    @classmethod
    def json_object(cls) -> Self:
        return cls(Kind.JSON_OBJECT)

    @classmethod
    def json_schema(cls, schema: str | Mapping[str, Any]) -> Self:
        """A schema, as JSON or as what JSON was read into."""
        if isinstance(schema, str):
            return cls(Kind.JSON_SCHEMA, schema)
        try:
            return cls(Kind.JSON_SCHEMA, json.dumps(schema, separators=(",", ":")))
        except (TypeError, ValueError, RecursionError) as error:
            raise BadSchema(f"the schema is no JSON: {error}", hint=HINT) from error

    @classmethod
    def regex(cls, pattern: str) -> Self:
        return cls(Kind.REGEX, pattern)

    @classmethod
    def lark(cls, grammar: str) -> Self:
        return cls(Kind.LARK, grammar)

    @classmethod
    def parse(cls, text: str) -> Self:
        """As it travels.

        Raises:
            BadGrammar: of a kind that is not known, or as above.
        """
        name, _, rest = text.partition(":")
        try:
            kind = Kind(name)
        except ValueError:
            hint = f"one of {', '.join(Kind)}"
            raise BadGrammar(f"no grammar is of kind {name[:40]!r}", hint=hint) from None
        return cls(kind, rest)

    def __str__(self) -> str:
        return f"{self.kind}:{self.text}" if self.text else str(self.kind)

    @property
    def is_json(self) -> bool:
        return self.kind in (Kind.JSON_OBJECT, Kind.JSON_SCHEMA)

    def error(self, reason: str) -> BadGrammar:
        """What is wrong with it, as its caller should hear it."""
        kind = BadSchema if self.is_json else BadGrammar
        return kind(f"the {_WORDS[self.kind]} cannot be used: {reason}", hint=HINT)


_WORDS = {
    Kind.JSON_OBJECT: "JSON grammar",
    Kind.JSON_SCHEMA: "JSON schema",
    Kind.REGEX: "pattern",
    Kind.LARK: "grammar",
}
