"""A bundle: a statement with all that proves it, in one file that is checked without the swarm.

In: a log, and which of its lines. Out: a zip of five files, made from the same bytes each time:

    bundle.json     whose log, of which swarm, which lines were chosen, how many entries it has
    policy          what the swarm's id is the hash of
    checkpoint      the tree head that the owner signed, as a C2SP note
    receipts.jsonl  a line per entry: salt, receipt and the path from its leaf to that root
    statement.json  what the receipts come to, for people; a check derives it again

and, where the log's key acts for an account (`key_events.py`), a sixth, `keyevents`, that shows it.

`bundle_check.py` reads it. Whoever does must know from elsewhere whose log they expect, as with any
signature; and a choice of lines proves what it shows, not that nothing was left out.
"""

import io
import json
import zipfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from ledger.entries import LogEntry, Proof
from ledger.key_ring import encode_chain
from ledger.lines import Line, peer_name
from ledger.reader import LedgerReader
from ledger.receipts import Receipt, open_receipt, receipt_id
from ledger.statements import EVERYTHING, Choice, Statement, make_statement
from ledger.views import kept_by
from protocol.errors import ConfigError, IntegrityError, UsageError
from protocol.files import private_file
from protocol.signing import Envelope

SCHEMA = "manyhands/ledger-bundle/v1"
ABOUT, POLICY, CHECKPOINT, RECEIPTS, STATEMENT = (
    "bundle.json",
    "policy",
    "checkpoint",
    "receipts.jsonl",
    "statement.json",
)
NAMES = (ABOUT, POLICY, CHECKPOINT, RECEIPTS, STATEMENT)
KEY_EVENTS = "keyevents"
MAX_FILE_BYTES = 256 * 2**20  # of the zip, and of each of its files once unpacked
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold: when it was made says nothing


def write_bundle(
    path: Path,
    reader: LedgerReader,
    policy: bytes,
    choice: Choice = EVERYTHING,
    key_events: Sequence[Envelope] = (),
) -> Statement:
    """Make the file; answer the statement it proves.

    policy: of the swarm, as `swarms.swarm_of` finds it.
    key_events: of the account that the log's key acts for; none: it stands for itself.

    Raises:
        UsageError: the log is empty, or the bundle would be larger than anybody checks.
        ConfigError: it cannot be written.
        IntegrityError: the log does not hold.
    """
    receipts, lines = io.BytesIO(), []
    with reader.at_rest() as (size, note):
        if not size:
            raise UsageError("this ledger has no receipts yet: there is nothing to prove")
        for chosen in make_statement(kept_by(reader), choice).lines:
            proof = reader.proof_at(chosen.index, size, note)
            lines.append(_line(reader, proof))
            if lines[-1] != chosen:
                raise IntegrityError(
                    f"entry {chosen.index} is not what its receipt says",
                    hint="manyhands ledger verify",
                )
            receipts.write(_told(proof))
            if receipts.tell() > MAX_FILE_BYTES:
                hint = "choose less: --from, --to"
                raise UsageError("that is too much for one bundle", hint=hint)
    statement = make_statement(lines)  # of these alone: what others say of a tab is not in here
    account = key_events[0].object_id(reader.swarm_id) if key_events else None
    files = {
        ABOUT: _json(_about(reader, choice, len(lines), size, account)),
        POLICY: policy,
        CHECKPOINT: note.encode(),
        RECEIPTS: receipts.getvalue(),
        STATEMENT: _json(statement_json(statement, choice)),
        **({KEY_EVENTS: encode_chain(key_events)} if key_events else {}),
    }
    _write(path, files)
    return statement


def statement_json(statement: Statement, choice: Choice) -> dict[str, Any]:
    """For people. What the account stood at before, and after, a choice of lines does not tell."""
    told = {**statement.to_json(), "period": choice.to_json()}
    if not choice.is_everything:
        told |= {"opening_ncr": None, "closing_ncr": None}
    return {**told, "tabs": [line.to_json() for line in statement.lines]}


def _about(
    reader: LedgerReader, choice: Choice, n_chosen: int, size: int, account: bytes | None
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "peer": peer_name(reader.account),
        "account": account.hex() if account else None,
        "swarm": reader.swarm_id.hex(),
        "size": size,
        "entries": n_chosen,
        "chosen": None if choice.is_everything else choice.to_json(),
    }


def _line(reader: LedgerReader, proof: Proof) -> Line:
    tab = open_receipt(Receipt.decode(proof.receipt), reader.swarm_id)
    id_ = receipt_id(proof.receipt, reader.swarm_id)
    digest = sha256(proof.salt + proof.receipt).digest()
    return Line.of(reader.account, LogEntry.of(proof.index, id_, tab, digest), tab)


def _told(proof: Proof) -> bytes:
    """A line of the bundle."""
    return _json(
        {
            "entry": proof.index,
            "salt": proof.salt.hex(),
            "receipt": proof.receipt.hex(),
            "path": [hash_.hex() for hash_ in proof.path],
        }
    )


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _write(path: Path, files: dict[str, bytes]) -> None:
    try:
        with (
            private_file(path) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle,
        ):
            for name, data in files.items():
                info = zipfile.ZipInfo(name, _LONG_AGO)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = 0o600 << 16
                bundle.writestr(info, data)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
