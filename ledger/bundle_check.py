"""Checking a bundle that somebody handed over, on a machine that never saw the swarm.

In: a file from anybody. Out: what it proves. Every receipt is derived again as in `verify.py`, led
to the signed root, and the statement made anew from what the receipts say. Receipts are read a line
at a time, and a statement only if it is no larger than they give. See `bundle_zip.py` for the zip.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from ledger.bundle_zip import inflated, opened, read, reading, unpacked
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
from ledger.key_ring import MAX_CHAIN_BYTES, decode_chain
from ledger.key_state import KeyState, fold
from ledger.lines import Line
from ledger.receipts import receipt_id
from ledger.statements import EVERYTHING, Choice, Statement, make_statement
from ledger.swarms import read_policy
from protocol.errors import IntegrityError, UsageError
from protocol.identity import public_key_from_peer_id
from protocol.signing import Envelope

MAX_LINE_BYTES = 600_000  # a receipt, its salt and a path of 64 hashes, in hexadecimal
MAX_SMALL_BYTES = 1 << 20
MAX_FORM = 4  # times our own bytes, of a statement: others may write JSON with more spaces


@dataclass(frozen=True, slots=True)
class Proven:
    """What a bundle proves: that this account's log, at this head, holds these lines."""

    account: bytes
    swarm_id: bytes
    swarm: str  # its name
    head: Checkpoint
    statement: Statement
    keys: KeyState | None  # of the account that the log's key acts for
    events: tuple[Envelope, ...] = ()  # of the account, that say so
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
    return check_data(read(path))


def check_data(data: bytes) -> Proven:
    """Of the bytes of a bundle; raises as `check_bundle`."""
    bundle, files = unpacked(data)
    missing = [name for name in NAMES if name not in files]
    if missing:
        raise IncompleteBundle(f"the bundle lacks {', '.join(missing)}")
    about = _object(ABOUT, inflated(bundle, files[ABOUT], MAX_SMALL_BYTES))
    if about.get("schema") != SCHEMA:
        raise BadBundle(f"{ABOUT} is no {SCHEMA}", hint="a newer Manyhands may read it")
    try:
        account = public_key_from_peer_id(str(about.get("peer")))
        note = inflated(bundle, files[CHECKPOINT], MAX_SMALL_BYTES).decode()
        head = Checkpoint.open(note, account)
        swarm_id, swarm = read_policy(inflated(bundle, files[POLICY], MAX_SMALL_BYTES))
    except BadBundle:
        raise
    except (IntegrityError, UsageError, UnicodeDecodeError) as error:
        raise BadBundle(str(error)) from error
    if about.get("swarm") != swarm_id.hex():
        raise BadBundle("its policy is of another swarm than it names")
    lines: list[Line] = []
    with opened(bundle, files[RECEIPTS], MAX_FILE_BYTES) as file:
        for view in _lines(file):
            line = _line(len(lines), view, account, swarm_id, note)
            if lines and line.index <= lines[-1].index:
                raise BadBundle("its entries are not each there once, in the order of the log")
            lines.append(line)
    choice = _check_whole(about, lines, head)
    statement = make_statement(lines)
    expected = statement_json(statement, choice)
    most = MAX_FORM * len(json.dumps(expected))  # before anything larger is inflated or read
    _check_statement(_object(STATEMENT, inflated(bundle, files[STATEMENT], most)), expected)
    if KEY_EVENTS in files:
        events = inflated(bundle, files[KEY_EVENTS], MAX_CHAIN_BYTES)
        keys, chain, n_unspoken = _account(about, events, account, swarm_id, statement)
    elif about.get("account") is None:
        keys, chain, n_unspoken = None, (), 0
    else:
        raise IncompleteBundle(f"the bundle lacks {KEY_EVENTS}")
    return Proven(account, swarm_id, swarm, head, statement, keys, chain, n_unspoken)


def as_known(proven: Proven, known: Sequence[Envelope]) -> Proven:
    """The same, by its account's key events as somebody told them elsewhere: a bundle from before a
    revocation, or of a thief who leaves it out, does not know of it.

    Raises:
        BadBundle: the key was revoked, or the two tell different things.
        UsageError: they are not the events of its account.
    """
    if proven.keys is None:
        return proven
    try:
        account = fold(known, proven.swarm_id).account
    except IntegrityError as error:
        raise UsageError(f"the key events that are known here do not hold: {error}") from error
    if account != proven.keys.account:
        raise UsageError(f"the key events are of another account, {account.hex()}")
    for mine, yours in zip(known, proven.events, strict=False):
        if mine.object_id(proven.swarm_id) != yours.object_id(proven.swarm_id):
            raise BadBundle("its account's events are another branch than those known here")
    chain = tuple(known) if len(known) > len(proven.events) else proven.events
    try:
        keys, n_unspoken = _acting(chain, proven.account, proven.swarm_id, proven.statement)
    except IntegrityError as error:
        hint = "ask the account's owner which key keeps this ledger now"
        raise BadBundle(f"by the key events known here: {error}", hint=hint) from error
    return replace(proven, keys=keys, events=chain, n_unspoken=n_unspoken)


# --- what it says --------------------------------------------------------------------------------


def _account(
    about: dict[str, Any], data: bytes, key: bytes, swarm_id: bytes, statement: Statement
) -> tuple[KeyState, tuple[Envelope, ...], int]:
    """The account that the log's key acts for, by which events, and how many lines that misses."""
    try:
        chain = tuple(decode_chain(data))
        state, n_unspoken = _acting(chain, key, swarm_id, statement)
    except IntegrityError as error:
        raise BadBundle(f"{KEY_EVENTS}: {error}") from error
    if about.get("account") != state.account.hex():
        raise BadBundle(f"its {KEY_EVENTS} are of another account than it names")
    return state, chain, n_unspoken


def _acting(
    chain: Sequence[Envelope], key: bytes, swarm_id: bytes, statement: Statement
) -> tuple[KeyState, int]:
    """A line is dated by whoever paid or was paid: what one says ends nothing for the others."""
    state = fold(chain, swarm_id)
    epochs = [line.epoch for line in statement.lines]
    held = state.check(key, "log", epoch=min(epochs, default=0))
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
    if account not in tab.terms.parties:
        raise BadBundle(f"entry {index}: the log's owner is no party to its receipt")
    id_, digest = receipt_id(proof.receipt, swarm_id), sha256(proof.salt + proof.receipt).digest()
    entry = LogEntry.of(index, id_, tab, digest)
    return Line.of(account, entry, tab)


def _check_whole(about: dict[str, Any], lines: list[Line], head: Checkpoint) -> Choice:
    """Whether these are the lines that it promises; answers how they were chosen."""
    if about.get("size") != head.size:
        raise BadBundle(
            f"it speaks of {about.get('size')!r} entries, its checkpoint of {head.size}"
        )
    promised, choice = about.get("entries"), _choice(about.get("chosen"))
    if type(promised) is not int or promised < len(lines):
        raise BadBundle("it has more receipts than it says")
    expected = head.size if choice.is_everything else promised
    if len(lines) < max(expected, promised):
        raise IncompleteBundle(f"the bundle has {len(lines)} receipts of {max(expected, promised)}")
    for line in lines:
        is_within = choice.first <= line.epoch and (
            choice.last is None or line.epoch <= choice.last
        )
        if not is_within or not choice.is_about(line):
            raise BadBundle(f"entry {line.index} is none of those that it says were chosen")
    return choice


def _choice(told: object) -> Choice:
    """How lines were chosen, as a bundle tells it; the whole log is no choice."""
    if told is None:
        return EVERYTHING
    try:
        if not isinstance(told, dict):
            raise TypeError("no object")
        first, last = (
            date.fromisoformat(told[name]) if told[name] is not None else None
            for name in ("from", "to")
        )
        choice = Choice.of(first, last, told["peer"], told["model"])
        if choice.to_json() != told or choice.is_everything:
            raise ValueError("not as it is written")
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise BadBundle(f"how its lines were chosen cannot be read: {error}") from error
    return choice


def _check_statement(told: dict[str, Any], given: dict[str, Any]) -> None:
    """Whether the statement for people is what the receipts give, no more and no less."""
    for name in given.keys() - {"tabs"}:
        if not _same(told.get(name), given[name]):
            raise BadBundle(
                f"the statement's {name} is {str(told.get(name))[:80]}, not {given[name]}"
            )
    if told.keys() != given.keys():
        raise BadBundle("the statement says more than receipts give")
    rows = told["tabs"]
    if not isinstance(rows, list) or len(rows) != len(given["tabs"]):
        raise BadBundle("the statement has other lines than there are receipts")
    for row, line in zip(rows, given["tabs"], strict=True):
        if not isinstance(row, dict):
            raise BadBundle("a line of the statement is no object")
        wrong = [name for name in line if not _same(row.get(name), line[name])]
        if wrong or row.keys() != line.keys():
            what = f"its {wrong[0]} is not" if wrong else "it says more than"
            reason = f"the statement's line of entry {line['entry']}: {what} what the receipt gives"
            raise BadBundle(reason)


def _same(told: object, given: object) -> bool:
    """As JSON: 1, 1.0 and true are three things."""
    try:
        return json.dumps(told, sort_keys=True) == json.dumps(given, sort_keys=True)
    except RecursionError:
        return False


def _lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    while True:
        with reading():
            line = file.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
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
