"""What can be wrong with an account.

IntegrityError (exit 8)
    BadObject         fields that break an object's own rule: sizes, ranges, order
    BadReceipt        a receipt whose parts do not bear each other out; `part` says which
    BadProof          a Merkle proof or checkpoint that does not lead to its root
    BadKeyEvent       a key event that does not follow, or that nobody may sign who did
    BadBundle         a statement with proofs that proves nothing (exit 2)
    IncompleteBundle  one that holds as far as it goes, and lacks what it promises (exit 3)
    KeyNotValid       a key that may not sign this for that account, or not then
    WitnessRefused    a witness will not sign a checkpoint; `status` says why
    NotAgreed         payer and payee have different receipts of the same tabs
    DamagedLedger     a database that is truncated or corrupt
ConfigError (exit 3)
    ForeignLedger     a database of another identity or swarm
    LedgerBusy        another process has held the database for too long
    LedgerUnreachable the server that has the database does not answer
    UnreadableBundle  a file that is not there or cannot be read (exit 66)
"""

from protocol.errors import ConfigError, IntegrityError


class BadObject(IntegrityError):
    code = "bad_object"


class BadReceipt(IntegrityError):
    """`part` is offer, terms, statement, voucher or receipt."""

    code = "bad_receipt"

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(f"{part}: {reason}")
        self.part = part
        self.reason = reason


class BadProof(IntegrityError):
    code = "bad_proof"


class BadKeyEvent(IntegrityError):
    code = "bad_key_event"


class KeyNotValid(IntegrityError):
    code = "key_not_valid"


class WitnessRefused(IntegrityError):
    """`status` is what HTTP says (C2SP tlog-witness), `size` what the witness last signed (409)."""

    code = "witness_refused"

    def __init__(self, status: int, reason: str, size: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.size = status, size


class BadBundle(IntegrityError):
    exit_code, code = 2, "bad_bundle"


class IncompleteBundle(IntegrityError):
    exit_code, code = 3, "incomplete_bundle"


class NotAgreed(IntegrityError):
    code = "not_agreed"


class DamagedLedger(IntegrityError):
    code = "damaged_ledger"


class ForeignLedger(ConfigError):
    code = "foreign_ledger"


class UnreadableBundle(ConfigError):
    """EX_NOINPUT of sysexits.h: 2 and 3 say something of a bundle that was read."""

    exit_code, code = 66, "unreadable_bundle"


class LedgerBusy(ConfigError):
    code = "ledger_busy"


class LedgerUnreachable(ConfigError):
    """Nothing acknowledged is lost with the connection; what was under way may be asked again."""

    code = "ledger_unreachable"
