"""How a span is executed, in words that peers compare: one profile per chain (DESIGN 5a.17).

`bfloat16/nf4/bfloat16` is a dtype to compute in, a form that weights are kept in, and the form in
which rows travel. Two hops with one profile compute alike as far as a declaration can say; what a
wire form means in bytes is left to whoever encodes rows, what a quantization does to the engine.

An `Execution` adds the engine's version: offers name it, and so a receipt says what ran.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from protocol.errors import UsageError
from protocol.wire import FORMATS

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of the dtypes a model may run in
WIRES = tuple(FORMATS)
PLAIN = "none"  # weights as they are computed with
_METHOD = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")  # of quantization: engines learn new ones
_HINT = "write DTYPE/QUANTIZATION or DTYPE/QUANTIZATION/WIRE, such as bfloat16/nf4/bfloat16"


@dataclass(frozen=True, slots=True)
class Profile:
    """One way of running a model.

    Raises:
        UsageError: there is no such dtype or wire form, or the quantization is no plain word.
    """

    dtype: str
    quantization: str
    wire: str

    def __post_init__(self) -> None:
        if self.dtype not in ITEM_BYTES:
            raise UsageError(
                f"{self.dtype[:40]!r} is no dtype that models run in",
                hint=f"one of {', '.join(ITEM_BYTES)}",
            )
        if not _METHOD.fullmatch(self.quantization):
            raise UsageError(f"{self.quantization[:40]!r} names no quantization", hint=_HINT)
        if self.wire not in WIRES:
            raise UsageError(
                f"rows cannot travel as {self.wire[:40]!r}", hint=f"one of {', '.join(WIRES)}"
            )

    @classmethod
    def of(cls, dtype: str, quantization: str = PLAIN) -> Self:
        """With the wire form that nobody has to agree on: rows travel as they are computed."""
        return cls(dtype, quantization, dtype)

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `str` made; a wire form left out is the default one."""
        match text.split("/"):
            case [dtype, quantization]:
                return cls.of(dtype, quantization)
            case [dtype, quantization, wire]:
                return cls(dtype, quantization, wire)
            case _:
                raise UsageError(f"{text[:80]!r} is no execution profile", hint=_HINT)

    @property
    def rounds_rows(self) -> bool:
        """Whether rows lose something on the wire; whoever names no profile gets none that do."""
        return self.wire not in (self.dtype, "float32")

    def __str__(self) -> str:
        return f"{self.dtype}/{self.quantization}/{self.wire}"


@lru_cache(maxsize=64)
def rounds_rows(profile: str) -> bool:
    """Of a profile as a peer announced it; one that we cannot read promises nothing of the kind."""
    try:
        return Profile.parse(profile).rounds_rows
    except UsageError:
        return False


@dataclass(frozen=True, slots=True)
class Execution:
    """A profile and the software that runs it, as `bfloat16/none/bfloat16 manyhands/0.1.0`."""

    profile: Profile
    engine: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises UsageError: it does not begin with a profile."""
        profile, _, engine = text.partition(" ")
        return cls(Profile.parse(profile), engine)

    def __str__(self) -> str:
        return f"{self.profile} {self.engine}".rstrip()
