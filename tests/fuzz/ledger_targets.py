"""What people hand each other of their ledgers, and keep of their keys: bundles, statements, key
events, key files."""

import io
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ledger import Ledger
from ledger.bundle_check import check_data
from ledger.bundles import ABOUT, KEY_EVENTS, NAMES, RECEIPTS, STATEMENT, write_bundle
from ledger.exports import write_csv, write_focus, write_jsonl
from ledger.imports import read_export
from ledger.key_events import DELEGATE, Delegation, KeyEvent, incept
from ledger.key_ring import decode_chain, encode_chain
from ledger.key_state import fold
from ledger.policy import OPEN_POLICY
from ledger.statements import make_statement
from ledger.views import kept_by
from protocol.canonical import encode
from protocol.key_files import read_key, write_new_key
from protocol.signing import Envelope, SigningKey
from tests.announcing import key_of
from tests.fuzz.harness import Target
from tests.fuzz.trust_targets import sealed
from tests.ledger.parties import CLIENT, SWARM, closed_receipt

ROOT, NEXT = key_of(801), key_of(802)


def _chain() -> list[Envelope]:
    _, inception = incept(ROOT, NEXT.public_key, SWARM)
    state = fold([inception], SWARM)
    event = KeyEvent(
        account=state.account,
        seq=1,
        prev_oid=state.head_oid,
        op=DELEGATE,
        delegate=Delegation(CLIENT.public_key, ("log",), 10**6, 0),
    )
    return [inception, event.seal(SWARM, ROOT)]


@cache
def _bundle() -> bytes:
    """Always the same one: each log salts its receipts anew."""
    with tempfile.TemporaryDirectory() as home, Ledger.open(Path(home), CLIENT, SWARM) as ledger:
        ledger.append(closed_receipt())
        path = Path(home) / "out.zip"
        write_bundle(path, ledger, encode(OPEN_POLICY.to_fields()), key_events=_chain())
        return path.read_bytes()


@cache
def _part(name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(_bundle())) as bundle:
        return bundle.read(name)


def _with(name: str) -> Callable[[bytes], object]:
    """Check a bundle in which one file is another."""

    def parse(data: bytes) -> object:
        files = {each: _part(each) for each in (*NAMES, KEY_EVENTS)}
        changed = io.BytesIO()
        with zipfile.ZipFile(changed, "w") as bundle:
            for each, content in (files | {name: data.rstrip(b"\n") + b"\n"}).items():
                bundle.writestr(each, content)
        return check_data(changed.getvalue())

    return parse


def _statements() -> list[bytes]:
    with tempfile.TemporaryDirectory() as home, Ledger.open(Path(home), CLIENT, SWARM) as ledger:
        ledger.append_all([closed_receipt(nonce=bytes([n]) * 16) for n in range(2)])
        lines = make_statement(kept_by(ledger)).lines
    return ["".join(write(lines)).encode() for write in (write_csv, write_jsonl, write_focus)]


def _in_file(parse: Callable[[Path], object]) -> Callable[[bytes], object]:
    def parse_file(data: bytes) -> object:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            return parse(Path(file.name))

    return parse_file


def _key_files() -> list[bytes]:
    with tempfile.TemporaryDirectory() as home:
        made = []
        for name, passphrase in (("plain", None), ("sealed", b"passphrase")):
            path = Path(home) / name
            write_new_key(path, SigningKey.from_seed(bytes(32)), passphrase, log2_n=1)
            made.append(path.read_bytes())
        return made


TARGETS = (
    Target(name="ledger-bundle", parse=check_data, seeds=lambda: [_bundle()]),
    *(
        Target(
            name=f"ledger-bundle-{name.partition('.')[0]}",
            parse=_with(name),
            seeds=lambda name=name: [_part(name)],
            shape="json",
        )
        for name in (ABOUT, RECEIPTS, STATEMENT)
    ),
    Target(
        name="ledger-bundle-keyevents",
        parse=_with(KEY_EVENTS),
        seeds=lambda: [_part(KEY_EVENTS)],
    ),
    Target(
        name="key-events",
        parse=lambda data: fold(decode_chain(data), SWARM),
        seeds=lambda: [encode_chain(_chain())],
    ),
    Target(
        name="key-event-signed",
        shape="cbor",
        parse=sealed(
            KeyEvent.TYPE, SWARM, lambda envelope: fold([_chain()[0], envelope], SWARM), signer=801
        ),
        seeds=lambda: [_chain()[1].payload],
    ),
    Target(name="ledger-statement", parse=_in_file(read_export), seeds=_statements),
    Target(
        name="key-file",
        parse=_in_file(lambda path: read_key(path, lambda _: b"passphrase")),
        seeds=_key_files,
        max_ms=1_500,  # scrypt at the most that a file may ask for, on a quiet machine
        max_mib=160,
    ),
)
