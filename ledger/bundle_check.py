"""Checking a bundle that somebody handed over, on a machine that never saw the swarm.

In: a file from anybody. Out: what it proves. Every receipt is derived again as in `verify.py`, led
to the signed root, and the statement made anew from what the receipts say. The zip is read in
memory, never unpacked to disk: names beyond those that belong there, copies, other compression,
directories that are not the last thing in the file, and sizes above what a bundle may have are
refused before anything is inflated; what is inflated is counted, whatever the zip says it is.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ledger.bundles import (
    ABOUT,
    CHECKPOINT,
    KEY_EVENTS,
    MAX_FILE_BYTES,
    NAMES,
    POLICY,
    RECEIPTS,
    SCHEMA,
    STATEMENT,
    statement_json,
)
from ledger.checkpoint import Checkpoint
from ledger.entries import LogEntry, Proof, verify_proof
from ledger.errors import BadBundle, IncompleteBundle
from ledger.key_ring import decode_chain
from ledger.key_state import KeyState, fold
from ledger.lines import Line
from ledger.receipts import receipt_id
from ledger.statements import Statement, make_statement
from ledger.swarms import read_policy
from protocol.errors import ConfigError, IntegrityError, UsageError
from protocol.identity import public_key_from_peer_id

MAX_LINE_BYTES = 600_000  # a receipt, its salt and a path of 64 hashes, in hexadecimal
MAX_SMALL_BYTES = 1 << 20
_END = b"PK\x05\x06"  # of the end of a zip's directory, APPNOTE 4.3.16
_END_BYTES, _FAR_END_BYTES = 22, 20
_FAR_END = b"PK\x06\x07"  # and of its twin for huge ones, 4.3.15


@dataclass(frozen=True, slots=True)
class Proven:
    """What a bundle proves: that this account's log, at this head, holds these lines."""

    account: bytes
    swarm_id: bytes
    swarm: str  # its name
    head: Checkpoint
    statement: Statement
    keys: KeyState | None  # of the account that the log's key acts for
    n_unspoken: int = 0  # lines dated after the key's delegation: its own, not the account's

    @property
    def is_whole(self) -> bool:
        """Whether it holds every entry of the log, so that none can be left out."""
        return len(self.statement.lines) == self.head.size


def check_bundle(path: Path) -> Proven:
    """
    Raises:
        BadBundle: it proves nothing, and why.
        IncompleteBundle: what is there holds, but something that it promises is not there.
        ConfigError: it cannot be read.
    """
    return check_data(_read(path))


def check_data(data: bytes) -> Proven:
    """Of the bytes of a bundle; raises as `check_bundle`."""
    files = _unpacked(data)
    missing = [name for name in NAMES if name not in files]
    if missing:
        raise IncompleteBundle(f"the bundle lacks {', '.join(missing)}")
    about = _object(ABOUT, files[ABOUT])
    if about.get("schema") != SCHEMA:
        raise BadBundle(f"{ABOUT} is no {SCHEMA}", hint="a newer Manyhands may read it")
    try:
        account = public_key_from_peer_id(str(about.get("peer")))
        note = files[CHECKPOINT].decode()
        head = Checkpoint.open(note, account)
        swarm_id, swarm = read_policy(files[POLICY])
    except (IntegrityError, UsageError, UnicodeDecodeError) as error:
        raise BadBundle(str(error)) from error
    if about.get("swarm") != swarm_id.hex():
        raise BadBundle("its policy is of another swarm than it names")
    lines = [
        _line(number, view, account, swarm_id, note)
        for number, view in enumerate(_lines(files[RECEIPTS]))
    ]
    _check_whole(about, lines, head)
    statement = make_statement(lines)
    _check_statement(_object(STATEMENT, files[STATEMENT]), statement)
    keys, n_unspoken = _key_state(about, files.get(KEY_EVENTS), account, swarm_id, statement)
    return Proven(account, swarm_id, swarm, head, statement, keys, n_unspoken)


# --- what it says --------------------------------------------------------------------------------


def _key_state(
    about: dict[str, Any],
    data: bytes | None,
    key: bytes,
    swarm_id: bytes,
    statement: Statement,
) -> tuple[KeyState | None, int]:
    """The account that the log's key acts for, and how many lines it does not reach: a line is
    dated by whoever was paid or paid, and what one of them says ends nothing for the others."""
    if data is None:
        if about.get("account") is not None:
            raise IncompleteBundle(f"the bundle lacks {KEY_EVENTS}")
        return None, 0
    try:
        state = fold(decode_chain(data), swarm_id)
        epochs = [line.epoch for line in statement.lines]
        held = state.check(key, "log", epoch=min(epochs, default=0))
    except IntegrityError as error:
        raise BadBundle(f"{KEY_EVENTS}: {error}") from error
    if about.get("account") != state.account.hex():
        raise BadBundle(f"its {KEY_EVENTS} are of another account than it names")
    return state, sum(epoch > held.not_after_epoch for epoch in epochs)


def _line(number: int, view: dict[str, Any], account: bytes, swarm_id: bytes, note: str) -> Line:
    """A line of the statement, once its receipt, leaf and path hold."""
    try:
        index = view["entry"]
        if type(index) is not int:
            raise TypeError("an entry is a number")
        proof = Proof(
            index=index,
            salt=bytes.fromhex(view["salt"]),
            receipt=bytes.fromhex(view["receipt"]),
            path=tuple(map(bytes.fromhex, view["path"])),
            checkpoint=note,
        )
        tab = verify_proof(proof, account, swarm_id)
    except (KeyError, TypeError, ValueError) as error:
        raise BadBundle(f"{RECEIPTS}, line {number + 1} cannot be read: {error}") from error
    except IntegrityError as error:
        raise BadBundle(f"entry {index} does not hold: {error}") from error
    if account not in (tab.terms.payer, tab.terms.payee):
        raise BadBundle(f"entry {index}: the log's owner is no party to its receipt")
    id_, digest = receipt_id(proof.receipt, swarm_id), sha256(proof.salt + proof.receipt).digest()
    entry = LogEntry.of(index, id_, tab, digest)
    return Line.of(account, entry, tab)


def _check_whole(about: dict[str, Any], lines: list[Line], head: Checkpoint) -> None:
    indexes = [line.index for line in lines]
    if indexes != sorted(set(indexes)):
        raise BadBundle("its entries are not each there once, in the order of the log")
    if about.get("size") != head.size:
        raise BadBundle(
            f"it speaks of {about.get('size')!r} entries, its checkpoint of {head.size}"
        )
    promised = about.get("entries")
    if type(promised) is not int or promised < len(lines):
        raise BadBundle("it has more receipts than it says")
    expected = promised if about.get("chosen") else head.size
    if len(lines) < max(expected, promised):
        raise IncompleteBundle(f"the bundle has {len(lines)} receipts of {max(expected, promised)}")


def _check_statement(told: dict[str, Any], statement: Statement) -> None:
    """Whether the statement for people is what the receipts give. What the account stood at
    before a period is not in these receipts, and is not believed."""
    given = statement_json(statement)
    for name in ("n_tabs", "token_layers", "earned_ncr", "spent_ncr", "net_ncr"):
        if told.get(name) != given[name]:
            raise BadBundle(f"the statement's {name} is {told.get(name)!r}, not {given[name]}")
    rows = told.get("tabs")
    if not isinstance(rows, list) or len(rows) != len(given["tabs"]):
        raise BadBundle("the statement has other lines than there are receipts")
    for row, line in zip(rows, given["tabs"], strict=True):
        if not isinstance(row, dict):
            raise BadBundle("a line of the statement is no object")
        for name in line:
            if row.get(name) != line[name]:
                reason = f"its {name} is not what the receipt gives"
                raise BadBundle(f"the statement's line of entry {line['entry']}: {reason}")


# --- the zip -------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise BadBundle(f"the file is larger than {MAX_FILE_BYTES // 2**20} MiB")
    return data


def _unpacked(data: bytes) -> dict[str, bytes]:
    _check_directory(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as bundle:
            infos = bundle.infolist()
            names = [info.filename for info in infos]
            if len(set(names)) != len(names) or not set(names) <= {*NAMES, KEY_EVENTS}:
                raise BadBundle("it holds other files than a bundle does")
            return {info.filename: _inflated(bundle, info) for info in infos}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        raise BadBundle(f"the zip is damaged: {error}") from error
    except (RuntimeError, UnicodeDecodeError) as error:  # encrypted, or names that are no text
        raise BadBundle(f"the zip cannot be read: {error}") from error


def _check_directory(data: bytes) -> None:
    """Look at the end of the zip before a library does, which reads as many names as it holds."""
    end = data[-_END_BYTES:]
    if len(end) < _END_BYTES or not end.startswith(_END):
        raise BadBundle("this is no bundle, or a part of one: a zip ends with its directory")
    n_files = int.from_bytes(end[10:12], "little")
    n_bytes = int.from_bytes(end[12:16], "little")
    if n_files > len(NAMES) + 1 or n_bytes > 4096 or end[20:22] != b"\0\0":
        raise BadBundle("it holds other files than a bundle does")
    if data[-_END_BYTES - _FAR_END_BYTES : -_END_BYTES].startswith(_FAR_END):
        raise BadBundle("a bundle is no zip64")


def _inflated(bundle: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    most = MAX_FILE_BYTES if info.filename in (RECEIPTS, STATEMENT) else MAX_SMALL_BYTES
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise BadBundle(f"{info.filename} is packed in another way than a bundle's files")
    with bundle.open(info) as file:
        data = file.read(most + 1)
    if len(data) > most or info.file_size > most:
        raise BadBundle(f"{info.filename} is larger than a bundle's may be")
    return data


def _lines(data: bytes) -> Iterator[dict[str, Any]]:
    file = io.BytesIO(data)
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise BadBundle(f"a line of {RECEIPTS} is longer than any receipt")
        if not line.endswith(b"\n"):
            raise IncompleteBundle(f"{RECEIPTS} ends in the middle of a line")
        yield _object(RECEIPTS, line)


def _object(name: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadBundle(f"{name} is not JSON") from error
    if not isinstance(value, dict):
        raise BadBundle(f"{name} is no JSON object")
    return value
