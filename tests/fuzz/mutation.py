"""Inputs that are almost right: seeds that work, changed a little, so that they get far in.

In: seeds, words of the format, a random generator. Out: bytes. What is an array in CBOR or a
document in JSON is mostly changed as such, at any depth, also inside of byte strings that hold
another array: bytes changed blindly would not get past the first length. The rest are flips,
cuts, repeats and splices of bytes, as in every fuzzer since AFL (Zalewski, 2013).
"""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import cbor2

INTEGERS = (0, 1, 2, 31, 32, 127, 128, 255, 256, 4096, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**53)
LARGE = (2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**31), -(2**63))
TEXTS = ("", "a", "\x00", "\x1b[2J", "é" * 40, "../../x", "A" * 300, "0", "-1", "NaN", "{{ 1 }}")
MAX_BYTES = 1 << 14
NESTED_ODDS, RAW_ODDS = 0.7, 0.3


def mutated(seeds: Sequence[bytes], words: Sequence[bytes], chance: Random, shape: str) -> bytes:
    """One input. `shape`: cbor, json, or bytes."""
    seed = chance.choice(seeds)
    if shape != "bytes" and chance.random() > RAW_ODDS:
        data = (_cbor if shape == "cbor" else _json)(seed, chance)
        if data is not None:
            return data
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        seed = chance.choice(_CHANGES)(seed, seeds, words, chance)
    return seed[:MAX_BYTES]


def _cbor(seed: bytes, chance: Random) -> bytes | None:
    try:
        tree = cbor2.loads(seed)
        for _ in range(chance.choice((1, 1, 2, 3))):
            tree = _changed(tree, chance, _cbor)
        return cbor2.dumps(tree)
    except (ValueError, TypeError, OverflowError, cbor2.CBORError):
        return None


def _json(seed: bytes, chance: Random) -> bytes | None:
    try:
        tree = json.loads(seed)
        for _ in range(chance.choice((1, 1, 2, 3))):
            tree = _changed(tree, chance, None)
        return json.dumps(tree, default=repr).encode(errors="surrogatepass")
    except (ValueError, TypeError, RecursionError):
        return None


def _changed(value: Any, chance: Random, nested: Callable[..., bytes | None] | None) -> Any:
    """`value` with one thing in it changed."""
    if isinstance(value, list | tuple) and value and chance.random() < NESTED_ODDS:
        items, at = list(value), chance.randrange(len(value))
        match chance.randrange(12):
            case 0:
                del items[at]
            case 1:
                items.insert(at, items[at])
            case 2:
                items += items[at:] * chance.choice((1, 1, 20))
            case 3:
                chance.shuffle(items)
            case _:
                items[at] = _changed(items[at], chance, nested)
        return items
    if isinstance(value, dict) and value and chance.random() < NESTED_ODDS:
        fields, name = dict(value), chance.choice(list(value))
        match chance.randrange(8):
            case 0:
                del fields[name]
            case 1:
                fields[chance.choice(TEXTS)] = fields[name]
            case _:
                fields[name] = _changed(fields[name], chance, nested)
        return fields
    if isinstance(value, bytes) and nested and chance.random() < NESTED_ODDS:
        inner = nested(value, chance)
        if inner is not None:
            return inner
    return _replaced(value, chance)


def _replaced(value: Any, chance: Random) -> Any:
    """Something of the same kind, or of none that fits."""
    if chance.random() < 0.25:
        return chance.choice((None, True, [], {}, b"", "", 1.5, float("inf"), float("nan"), [[]]))
    match value:
        case bool():
            return not value
        case int():
            near = (value + 1, value - 1, value * 2, -value, value << 40)
            return chance.choice((*near, *INTEGERS, *LARGE))
        case float():
            return chance.choice((0.0, -value, value * 1e300, float("inf"), float("nan"), 1))
        case str():
            cut = chance.randrange(len(value) + 1)
            return chance.choice((value[:cut], value[cut:] + value, value.upper(), *TEXTS))
        case bytes():
            return _change_bytes(value, chance)
        case _:
            return chance.choice((0, "", b"", [], None))


def _change_bytes(value: bytes, chance: Random) -> bytes:
    for _ in range(chance.choice((1, 1, 2))):
        value = chance.choice(_CHANGES)(value, (value,), (), chance)
    return value[:MAX_BYTES]


def _flip(data: bytes, _: object, __: object, chance: Random) -> bytes:
    if not data:
        return b"\x00"
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _set(data: bytes, _: object, __: object, chance: Random) -> bytes:
    if not data:
        return bytes([chance.randrange(256)])
    at = chance.randrange(len(data))
    return data[:at] + bytes([chance.choice((0, 1, 0x7F, 0x80, 0xFF, 0x1F))]) + data[at + 1 :]


def _number(data: bytes, _: object, __: object, chance: Random) -> bytes:
    size = chance.choice((2, 4, 8))
    at = chance.randrange(max(1, len(data) - size + 1))
    value = chance.choice((*INTEGERS, *LARGE)) % 256**size
    return data[:at] + value.to_bytes(size, chance.choice(("little", "big"))) + data[at + size :]


def _cut(data: bytes, _: object, __: object, chance: Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _drop(data: bytes, _: object, __: object, chance: Random) -> bytes:
    start, length = chance.randrange(len(data) + 1), chance.choice((1, 1, 2, 4, 32))
    return data[:start] + data[start + length :]


def _repeat(data: bytes, _: object, __: object, chance: Random) -> bytes:
    start = chance.randrange(len(data) + 1)
    part = data[start : start + chance.choice((1, 2, 8, 64))]
    return data[:start] + part * chance.choice((1, 2, 3, 64)) + data[start:]


def _insert(data: bytes, _: object, words: Sequence[bytes], chance: Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    word = chance.choice(words) if words else chance.randbytes(chance.choice((1, 4, 16)))
    return data[:at] + word + data[at + chance.choice((0, len(word))) :]


def _splice(data: bytes, seeds: Sequence[bytes], _: object, chance: Random) -> bytes:
    other = chance.choice(seeds)
    at = chance.randrange(len(other) + 1)
    return data[: chance.randrange(len(data) + 1)] + other[at:]


def _noise(data: bytes, _: object, __: object, chance: Random) -> bytes:
    return chance.randbytes(chance.choice((0, 1, 3, 16, 64, 300)))


_CHANGES: tuple[Callable[..., bytes], ...] = (
    *(_flip, _flip, _set, _set, _number, _number),
    *(_cut, _drop, _repeat, _insert, _insert, _splice, _noise),
)
