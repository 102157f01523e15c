"""The one encoding of a signed object: deterministic CBOR arrays, and nothing else.

In: fields in their fixed order. Out: the bytes that are signed, and back. RFC 8949 section 4.2.1,
narrowed to definite-length arrays, unsigned integers below 2^63 (a database integer is signed),
byte strings, text, booleans and null. No maps, so that no sort order can be disputed; no floats,
negatives or tags, so that each value has exactly one spelling. What the fields mean is left to
whoever names them.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias, Union

import cbor2

from protocol.errors import IntegrityError

Field: TypeAlias = Union[bool, int, bytes, str, Sequence["Field"], None]  # noqa: UP007 (recursive)

MAX_UINT = 2**63 - 1
MAX_DEPTH = 4  # an object inside another rides as a byte string, and starts again at 1
MAX_BYTES = 64 * 1024


class NotCanonical(IntegrityError):
    """Bytes that are not the one encoding of anything, or values that have none."""

    code = "not_canonical"


def encode(fields: Sequence[Field]) -> bytes:
    """The canonical bytes of an array of fields.

    Raises:
        NotCanonical: a value of another type, out of range, nested too deep, or too much in all.
    """
    if type(fields) is not list and type(fields) is not tuple:
        raise NotCanonical(f"an object is an array of fields, not {type(fields).__name__}")
    _check(fields, depth=1)
    try:
        data = cbor2.dumps(fields)
    except ValueError as error:  # text with lone surrogates has no UTF-8
        raise NotCanonical(f"a field cannot be encoded: {error}") from error
    if len(data) > MAX_BYTES:
        raise NotCanonical(f"an object takes {len(data)} bytes, more than {MAX_BYTES}")
    return data


def decode(data: bytes) -> list[Any]:
    """The fields of an object; refuses every spelling but the one `encode` makes.

    Raises:
        NotCanonical: no array, another spelling, trailing bytes, another type, too deep or big.
    """
    if len(data) > MAX_BYTES:
        raise NotCanonical(f"an object takes {len(data)} bytes, more than {MAX_BYTES}")
    try:
        fields = cbor2.loads(
            data, max_depth=MAX_DEPTH, allow_indefinite=False, allow_duplicate_keys=False
        )
    except Exception as error:  # the decoder meets strangers' bytes; whatever it says, they are bad
        raise NotCanonical(f"not CBOR of the shape that is signed: {error}") from error
    if type(fields) is not list:
        raise NotCanonical(f"an object is an array of fields, not {type(fields).__name__}")
    # Both checks are needed: a float re-encodes to itself, a long-form integer has the right type.
    _check(fields, depth=1)
    if cbor2.dumps(fields) != data:
        raise NotCanonical("the bytes are not the one canonical encoding of their fields")
    return fields


def _check(values: Sequence[Any], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise NotCanonical(f"arrays nest at most {MAX_DEPTH} deep")
    for value in values:
        kind = type(value)  # exact: a bool is an int to isinstance, a subclass may encode otherwise
        if kind is bytes or kind is str or kind is bool or value is None:
            continue
        if kind is int:
            if not 0 <= value <= MAX_UINT:
                raise NotCanonical(f"an integer lies in [0, 2^63), got {value}")
        elif kind is list or kind is tuple:
            _check(value, depth + 1)
        else:
            raise NotCanonical(f"a field cannot be of type {kind.__name__}")
