"""A signed tree head, as a note that any C2SP tool reads.

In: origin, size, root. Out: text, signed with the account's key. Implements C2SP tlog-checkpoint
over signed-note with Ed25519 (type 0x01), without extension lines. A log has one origin, so a note
of one log never passes for another's.
"""

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, Self

from ledger.errors import BadProof
from protocol.canonical import MAX_UINT
from protocol.signing import SigningKey, verify

ED25519 = b"\x01"
_DASH = "\N{EM DASH}"


def origin(swarm_id: bytes, account: bytes, log: Literal["receipts", "spend"] = "receipts") -> str:
    """The name of one of an account's logs."""
    return f"manyhands/{swarm_id[:8].hex()}/{account.hex()}/{log}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's promise: my first `size` entries have this root, and I will never change them."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a checkpoint's text. Who signed it is another question.

        Raises:
            BadProof: it is not origin, size and root, in their one spelling.
        """
        try:
            name, size, root, end = text.split("\n")
            head = cls(name, int(size), b64decode(root, validate=True))
        except (ValueError, Base64Error) as error:
            raise BadProof("a checkpoint is origin, size and root") from error
        if end or head.text() != text or len(head.root) != 32 or not 0 <= head.size <= MAX_UINT:
            raise BadProof("a checkpoint is origin, size and root, in one spelling")
        return head

    def sign(self, key: SigningKey) -> str:
        return self.note(key.public_key, key.sign(self.text().encode()))

    def note(self, public_key: bytes, signature: bytes) -> str:
        signed = b64encode(_key_id(self.origin, public_key) + signature).decode()
        return f"{self.text()}\n{_DASH} {self.origin} {signed}\n"

    @classmethod
    def open(cls, note: str, public_key: bytes) -> Self:
        """Read a note that this key signed, and nobody else did.

        Raises:
            BadProof: it is not such a note, in its one spelling.
            BadSignature: the signature does not hold.
        """
        try:
            name, size, root, blank, line, end = note.split("\n")
            signed = b64decode(line.rpartition(" ")[2], validate=True)
            checkpoint = cls(name, int(size), b64decode(root, validate=True))
            note.encode()  # what JSON may hold and no file can: half of a character
        except (ValueError, Base64Error) as error:
            raise BadProof("a checkpoint is origin, size, root and one signature") from error
        signature = signed[4:]
        if checkpoint.note(public_key, signature) != note or (blank, end) != ("", ""):
            raise BadProof("the checkpoint is not signed with this log's key, or not canonical")
        verify(public_key, checkpoint.text().encode(), signature)
        return checkpoint


def _key_id(name: str, public_key: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + ED25519 + public_key).digest()[:4]
