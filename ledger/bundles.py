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

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ledger.errors import BadBundle
from ledger.key_ring import encode_chain
from ledger.lines import Line, peer_name
from ledger.reader import LedgerReader
from ledger.receipts import open_receipt
from ledger.statements import EVERYTHING, Choice, Statement, make_statement
from protocol.errors import ConfigError, UsageError
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
    proven: list[tuple[Line, bytes]] = []
    note = ""
    for line, told, checkpoint in _proofs(reader):
        proven.append((line, told))
        note = note or checkpoint
        if note != checkpoint:
            raise BadBundle("the ledger grew meanwhile", hint="run it again")
    if not proven:
        raise UsageError("this ledger has no receipts yet: there is nothing to prove")
    chosen = make_statement((line for line, _ in proven), choice).lines
    statement = make_statement(chosen)  # of these alone: what others say of a tab is not in here
    indexes = {line.index for line in chosen}
    receipts = b"".join(told for line, told in proven if line.index in indexes)
    if len(receipts) > MAX_FILE_BYTES:
        raise UsageError("that is too much for one bundle", hint="choose less: --from, --to")
    account = key_events[0].object_id(reader.swarm_id) if key_events else None
    files = {
        ABOUT: _json(_about(reader, choice, len(chosen), len(proven), account)),
        POLICY: policy,
        CHECKPOINT: note.encode(),
        RECEIPTS: receipts,
        STATEMENT: _json(statement_json(statement)),
        **({KEY_EVENTS: encode_chain(key_events)} if key_events else {}),
    }
    _write(path, files)
    return statement


def statement_json(statement: Statement) -> dict[str, Any]:
    return {**statement.to_json(), "tabs": [line.to_json() for line in statement.lines]}


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


def _proofs(reader: LedgerReader) -> Iterator[tuple[Line, bytes, str]]:
    """Every line of the log, its proof as a line of the bundle, and the checkpoint it is under."""
    for entry in reader.entries():
        proof = reader.prove(entry.receipt_id)
        tab = open_receipt(reader.receipt(entry.receipt_id), reader.swarm_id)
        told = _json(
            {
                "entry": proof.index,
                "salt": proof.salt.hex(),
                "receipt": proof.receipt.hex(),
                "path": [hash_.hex() for hash_ in proof.path],
            }
        )
        yield Line.of(reader.account, entry, tab), told, proof.checkpoint


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _write(path: Path, files: dict[str, bytes]) -> None:
    fresh = path.with_name(f"{path.name}.new")
    try:
        with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, data in files.items():
                info = zipfile.ZipInfo(name, _LONG_AGO)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = 0o600 << 16
                bundle.writestr(info, data)
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
