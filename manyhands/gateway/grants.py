"""What a key may: which models, how fast, for how much, where, and with what class of data.

In: what the operator set. Out: values, checked, that the rest of the gateway asks. The defaults
allow everything; an empty grant is that of whoever asks a gateway without keys.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self

from protocol.errors import UsageError

MAX_WORDS, MAX_CHARS = 64, 256
MAX_COUNT = 2**53


class DataClass(StrEnum):
    """How far what is asked may travel, the freest first."""

    PUBLIC = "public"
    INTERNAL = "internal"
    RESTRICTED = "restricted"

    @property
    def rank(self) -> int:
        return list(DataClass).index(self)


class Per(StrEnum):
    """What a budget is for."""

    DAY = "day"  # of UTC
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """models: names as callers use them; none: all. regions: `eu` allows `eu-west`, too; none: all.
    None for a number: no limit. data_class: of all that this key asks, at least."""

    models: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    budget_ncr: int | None = None
    budget_per: Per = Per.DAY
    regions: tuple[str, ...] = ()
    data_class: DataClass = DataClass.PUBLIC

    def __post_init__(self) -> None:
        for words in (self.models, self.regions):
            if len(words) > MAX_WORDS or not all(_is_word(word) for word in words):
                raise UsageError(f"up to {MAX_WORDS} models and regions, in printable characters")
        for name in ("requests_per_minute", "tokens_per_minute", "budget_ncr"):
            value, least = getattr(self, name), 0 if name == "budget_ncr" else 1
            if value is not None and not (type(value) is int and least <= value <= MAX_COUNT):
                raise UsageError(f"{name} lies between {least} and {MAX_COUNT}, got {value!r}")

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        """
        Raises:
            UsageError, ValueError, TypeError: it holds what this version does not know.
        """
        known = {field.name for field in fields(cls)}
        if unknown := set(told) - known:  # to pass a limit over would be to break it
            raise UsageError(f"a key has an unknown limit, {min(unknown)[:40]!r}")
        values = dict(told)
        for name in ("models", "regions"):
            if not isinstance(values.get(name, []), list | tuple):
                raise TypeError(name)
            values[name] = tuple(values.get(name, ()))
        values["budget_per"] = Per(values.get("budget_per", Per.DAY))
        values["data_class"] = DataClass(values.get("data_class", DataClass.PUBLIC))
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Only what limits anything."""
        told = asdict(self)
        if self.budget_ncr is None:
            del told["budget_per"]
        defaults = asdict(UNLIMITED)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in told.items()
            if value != defaults[name] or (name == "budget_per" and self.budget_ncr is not None)
        }

    def in_words(self) -> str:
        """For a list that people read."""
        told = []
        if self.models:
            told.append(f"models {', '.join(self.models)}")
        if self.requests_per_minute is not None:
            told.append(f"{self.requests_per_minute} requests/min")
        if self.tokens_per_minute is not None:
            told.append(f"{self.tokens_per_minute} tokens/min")
        if self.budget_ncr is not None:
            span = "a day" if self.budget_per is Per.DAY else "in all"
            told.append(f"{self.budget_ncr} ncr {span}")
        if self.regions:
            told.append(f"regions {', '.join(self.regions)}")
        if self.data_class is not DataClass.PUBLIC:
            told.append(f"data {self.data_class}")
        return "; ".join(told) or "no limits"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. group: a secret that the requests of one key share; id and name: of the key."""

    group: str = ""
    id: str = ""
    name: str = ""
    grant: Grant = Grant()


UNLIMITED = Grant()
ANYBODY = Caller()


def _is_word(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= MAX_CHARS and text.isprintable()
