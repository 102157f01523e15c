"""Signed notes: a text, and signatures by whoever vouches for it, as C2SP signed-note has them.

In: a text and signatures of any kind. Out: the one spelling of the note, and which keys signed it.
A kind of signature is a byte that enters the key's id, so lines of kinds and keys that the reader
does not know are passed over, while a line that claims to be of a known key must hold. What texts
mean is left to `checkpoint.py` and `cosigning.py`.
"""

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from ledger.errors import BadProof

ED25519, COSIGNATURE_V1 = 0x01, 0x04  # kinds of signature: signed-note, tlog-cosignature
MAX_NOTE_BYTES = 64 * 1024
MAX_LINES = 64
_DASH = "\N{EM DASH}"


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A key that signs notes: the name it signs under, its kind and its bytes."""

    name: str
    kind: int
    public_key: bytes

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def id(self) -> bytes:
        """The four bytes that a line begins with. A hint, not a proof."""
        return sha256(self.name.encode() + b"\n" + bytes((self.kind,)) + self.public_key).digest()[
            :4
        ]

    @property
    def vkey(self) -> str:
        """As tools are told of it: name, id and key, with plus signs between."""
        return f"{self.name}+{self.id.hex()}+{b64encode(self._typed).decode()}"

    @property
    def _typed(self) -> bytes:
        return bytes((self.kind,)) + self.public_key

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Read a verifier key of signed-note.

        Raises:
            BadProof: it is none, or not of this name and key.
        """
        try:
            name, _, encoded = vkey.split("+", 2)
            data = b64decode(encoded, validate=True)
            key = cls(name, data[0], data[1:])
        except (ValueError, IndexError, Base64Error) as error:
            raise BadProof("a verifier key is a name, an id and base64") from error
        if key.vkey != vkey:
            raise BadProof("the verifier key's id is not that of its name and key")
        return key


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One line below a note's text."""

    name: str
    key_id: bytes
    signature: bytes

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.key_id) != 4 or not self.signature:
            raise BadProof("a note's signature has a key's id before it")

    def line(self) -> str:
        return f"{_DASH} {self.name} {b64encode(self.key_id + self.signature).decode()}\n"

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read one line, without its end."""
        try:
            dash, name, encoded = line.split(" ")
            data = b64decode(encoded, validate=True)
            parsed = cls(name, data[:4], data[4:])
        except (ValueError, Base64Error) as error:
            raise BadProof("a note's signature is a dash, a name and base64") from error
        if dash != _DASH or parsed.line() != line + "\n":
            raise BadProof("a note's signature has one spelling")
        return parsed


@dataclass(frozen=True, slots=True)
class Note:
    """A text that ends in a newline, and the signatures below it."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def encode(self) -> str:
        return f"{self.text}\n{''.join(each.line() for each in self.signatures)}"

    def of(self, key: NoteKey) -> list[bytes]:
        """The signatures that claim to be this key's. They are not verified yet."""
        return [s.signature for s in self.signatures if (s.name, s.key_id) == (key.name, key.id)]

    @classmethod
    def parse(cls, note: str) -> Self:
        """Take a note apart. Nothing is believed yet.

        Raises:
            BadProof: this is no signed note.
        """
        text, between, below = note.rpartition("\n\n")
        lines = below.split("\n")
        if not between or not text or len(note) > MAX_NOTE_BYTES or len(lines) > MAX_LINES + 1:
            raise BadProof("a note is a text, an empty line and signatures")
        if lines.pop() or not lines or not _is_plain(note):
            raise BadProof("a note is made of lines of plain text, each of them ended")
        return cls(text + "\n", tuple(map(NoteSignature.parse, lines)))


def check_name(name: str) -> None:
    """Raises BadProof: no name can stand in a line of signatures."""
    if not name or "+" in name or any(each.isspace() for each in name) or not _is_plain(name):
        raise BadProof("a name that signs has no spaces and no plus sign")


def parse_lines(lines: str) -> tuple[NoteSignature, ...]:
    """Signatures without their note, as a witness answers with."""
    if not lines.endswith("\n") or lines.count("\n") > MAX_LINES:
        raise BadProof("signatures are lines, each of them ended")
    return tuple(map(NoteSignature.parse, lines[:-1].split("\n")))


def _is_plain(text: str) -> bool:
    """Whether it is UTF-8 without control characters, but for newlines."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return all(each >= " " or each == "\n" for each in text)
