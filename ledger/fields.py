"""The kinds of field a signed object is made of, and the frame all objects share.

A field's kind says its Python type and the rule its value keeps: `session_id: Id16`. The rule is
checked when the object is made, so that an object that exists is well formed, whoever sent it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Self, TypeAlias, get_type_hints

from ledger.errors import BadObject
from ledger.meter import Meter, Rates
from protocol.canonical import MAX_UINT, Field
from protocol.signing import Envelope, SigningKey, open_envelope, seal

VERSION = 1
MAX_TEXT_CHARS = 128
# Spelled out: what Python holds printable changes with the tables of Unicode that it comes with.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
Check: TypeAlias = Callable[[Any], None]


def check_uint(value: Any) -> None:
    if type(value) is not int or not 0 <= value <= MAX_UINT:
        raise BadObject(f"expected an integer in [0, 2^63), got {value!r}")


def check_flag(value: Any) -> None:
    if type(value) is not bool:
        raise BadObject("expected true or false")


def check_text(value: Any) -> None:
    """Without controls: it is shown on terminals and pages, and not all databases keep them."""
    if type(value) is not str or len(value) > MAX_TEXT_CHARS:
        raise BadObject(f"expected a text of at most {MAX_TEXT_CHARS} characters")
    if _CONTROLS.search(value):
        raise BadObject("expected a text without control characters")


def check_reserved(value: Any) -> None:
    if value is not None:
        raise BadObject("reserved, must be null")


def check_bytes(*sizes: int) -> Check:
    def check(value: Any) -> None:
        if type(value) is not bytes or len(value) not in sizes:
            raise BadObject(f"expected {' or '.join(map(str, sizes))} bytes")

    return check


def check_kind(kind: type) -> Check:
    def check(value: Any) -> None:
        if type(value) is not kind:
            raise BadObject(f"expected {kind.__name__.lower()}")

    return check


def or_null(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


Uint = Annotated[int, check_uint]
Flag = Annotated[bool, check_flag]
Text = Annotated[str, check_text]
Id16 = Annotated[bytes, check_bytes(16)]
Id32 = Annotated[bytes, check_bytes(32)]
MaybeId32 = Annotated[bytes | None, or_null(check_bytes(32))]
Account = Annotated[bytes, check_bytes(32)]  # for now the public key itself
Asset = Annotated[bytes, check_bytes(0, 32)]
Counters = Annotated[Meter, check_kind(Meter)]
PriceList = Annotated[Rates, check_kind(Rates)]
Reserved = Annotated[None, check_reserved]  # for funding, witnesses, fingerprints: in its place


@dataclass(frozen=True, slots=True)
class SignedObject:
    """A type name, a version, and fields in a fixed order."""

    TYPE: ClassVar[str]

    def __post_init__(self) -> None:
        for name, check in _fields_of(type(self)):
            try:
                check(getattr(self, name))
            except BadObject as error:
                raise BadObject(f"{self.TYPE} {name}: {error}") from error

    def to_fields(self) -> list[Field]:
        values = (getattr(self, name) for name, _ in _fields_of(type(self)))
        return [VERSION, *(v.to_fields() if isinstance(v, Meter) else v for v in values)]

    @classmethod
    def from_fields(cls, values: Sequence[Any]) -> Self:
        named = _fields_of(cls)
        if len(values) != len(named) + 1 or type(values[0]) is not int or values[0] != VERSION:
            raise BadObject(f"these are not the fields of {cls.TYPE}")
        return cls(**{n: cls._read(n, v) for (n, _), v in zip(named, values[1:], strict=True)})

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        """A field's value, from what decoding gave; objects with nested fields extend it."""
        if name == "meter":
            return Meter.from_fields(value)
        return Rates.from_fields(value) if name == "rates" else value

    def seal(self, swarm_id: bytes, *keys: SigningKey) -> Envelope:
        return seal(self.TYPE, swarm_id, self.to_fields(), *keys)

    @classmethod
    def open(cls, envelope: Envelope, swarm_id: bytes, *signers: bytes) -> Self:
        """Read an object that exactly `signers` signed.

        Raises:
            IntegrityError: another type or signer, a bad signature, encoding or field.
        """
        return cls.from_fields(open_envelope(envelope, cls.TYPE, swarm_id, signers))


_FIELDS: dict[str, tuple[tuple[str, Check], ...]] = {}


def _fields_of(cls: type[SignedObject]) -> tuple[tuple[str, Check], ...]:
    """Each field's name and rule, read from its annotation once per type."""
    if (known := _FIELDS.get(cls.TYPE)) is None:
        hints = get_type_hints(cls, include_extras=True)
        known = tuple((item.name, hints[item.name].__metadata__[0]) for item in fields(cls))
        _FIELDS[cls.TYPE] = known
    return known
