"""An account's keys as a home keeps them: the events so far, and the keys that sign the next ones.

In: a directory `account/`, and where its keys are if not there (a disk that is kept in a drawer).
Out: a state, and new events appended to it. Every key has a file of its own, named after its public
half, so that nothing is ever renamed: a new key is on disk before the event that commits to it. The
events are one line of hexadecimal each, written whole or not at all, by one process at a time.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ledger.errors import BadKeyEvent
from ledger.key_events import (
    DELEGATE,
    REVOKE,
    ROTATE,
    Delegation,
    KeyEvent,
    commitment,
    incept,
)
from ledger.key_state import MAX_EVENTS, KeyState, fold
from protocol.canonical import decode
from protocol.errors import (
    ConfigError,
    InsecureHome,
    IntegrityError,
    ManyhandsError,
    UsageError,
)
from protocol.file_lock import lock
from protocol.key_files import (
    Unlock,
    is_encrypted,
    read_key,
    read_public_key,
    write_new_key,
)
from protocol.signing import Envelope, SigningKey

ACCOUNT, EVENTS, LOCK = "account", "events", "events.lock"
MAX_CHAIN_BYTES = 16 * 2**20
MAX_TOLD = 3  # files that could not be read


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRing:
    """passphrase: new keys are encrypted with it; None: as the key that they will replace is, with
    the same passphrase, and the first ones are plain files, mode 0600. client: where the key lies
    that an account begins with which lets others pay from its credit."""

    directory: Path
    keys: Path
    swarm_id: bytes
    unlock: Unlock | None = None
    passphrase: bytes | None = None
    client: Path | None = None

    @property
    def exists(self) -> bool:
        return (self.directory / EVENTS).exists()

    def events(self) -> list[Envelope]:
        """
        Raises:
            ConfigError: there is no account yet, or its events cannot be read.
            BadKeyEvent: they are damaged.
        """
        path = self.directory / EVENTS
        try:
            return read_chain(path)
        except FileNotFoundError as error:
            raise ConfigError(
                f"there is no account in {self.directory.parent}",
                hint="make one: manyhands ledger keys begin",
            ) from error

    def state(self) -> KeyState:
        """What the events come to; raises as `events`."""
        return fold(self.events(), self.swarm_id)

    def first_key(self) -> bytes:
        """The key that the account began with; raises as `events`."""
        return KeyEvent.from_fields(decode(self.events()[0].payload)).keys[0]

    def begin(self, root: SigningKey | None = None) -> KeyState:
        """A new account, whose next key is made now, and its root key too, if none is given.

        Raises:
            UsageError: this home has one.
            ConfigError: nothing can be written there.
        """
        with self._alone():
            if self.exists:
                raise UsageError(
                    f"{self.directory.parent} has an account already",
                    hint="manyhands ledger keys show",
                )
            root = root or self._make_key(self.passphrase)
            later = self._make_key(self.passphrase)
            _, inception = incept(root, later.public_key, self.swarm_id)
            return self._keep([inception])

    def rotate(self) -> KeyState:
        """The key that was committed to takes over, and a new one is committed to.

        Raises:
            ConfigError: that key is not at hand, or nothing can be written.
            BadKeyEvent: the events are damaged.
        """
        with self._alone():
            events, state = self.events(), self.state()
            place = self._find(
                lambda key: commitment(key) == state.next_key_hash, "the next root key"
            )
            taking_over = read_key(place, self.unlock, may_be_read=True)
            later = self._make_key(self._passphrase_of(place))
            return self._append(
                events,
                state,
                KeyEvent(
                    account=state.account,
                    seq=state.n_events,
                    prev_oid=state.head_oid,
                    op=ROTATE,
                    keys=(taking_over.public_key,),
                    next_key_hash=commitment(later.public_key),
                ),
                taking_over,
            )

    def delegate(self, delegation: Delegation) -> KeyState:
        """Let a key do something for the account, or renew what it may; raises as `rotate`."""
        with self._alone():
            events, state = self.events(), self.state()
            event = KeyEvent(
                account=state.account,
                seq=state.n_events,
                prev_oid=state.head_oid,
                op=DELEGATE,
                delegate=delegation,
            )
            return self._append(events, state, event, self._root(state))

    def revoke(self, key: bytes) -> KeyState:
        """A delegated key ends, for good; raises as `rotate`."""
        with self._alone():
            events, state = self.events(), self.state()
            event = KeyEvent(
                account=state.account,
                seq=state.n_events,
                prev_oid=state.head_oid,
                op=REVOKE,
                keys=(key,),
            )
            return self._append(events, state, event, self._root(state))

    # --- within ----------------------------------------------------------------------------------

    def _append(
        self, events: list[Envelope], state: KeyState, event: KeyEvent, key: SigningKey
    ) -> KeyState:
        sealed = event.seal(self.swarm_id, key)
        state.after(sealed, self.swarm_id)  # what does not follow is not written
        return self._keep([*events, sealed])

    def _keep(self, events: list[Envelope]) -> KeyState:
        state = fold(events, self.swarm_id)
        path = self.directory / EVENTS
        fresh = path.with_name(f"{EVENTS}.new")
        with _written(path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
                file.write(encode_chain(events))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        return state

    def _root(self, state: KeyState) -> SigningKey:
        place = self._find(lambda key: key == state.root_key, "the root key")
        return read_key(place, self.unlock, may_be_read=True)

    def _find(self, is_it: Callable[[bytes], bool], what: str) -> Path:
        """Where that key is. Other files of this kind may lie beside it: a server's, somebody's."""
        unread: list[ManyhandsError] = []
        own = [self.client] if self.client is not None and self.client.exists() else []
        for path in sorted((*self.keys.glob("*.key"), *self.directory.glob("*.key"), *own)):
            try:
                if is_it(read_public_key(path, may_be_read=True)):
                    return path
            except ManyhandsError as error:
                unread.append(error)
        hints = [error.hint for error in unread if isinstance(error, InsecureHome)]
        raise ConfigError(
            f"{what} of the account is not in {self.keys}"
            + "".join(f"; {error}" for error in unread[:MAX_TOLD]),
            hint=hints[0] if hints else "say where it is: --keys DIR",
        )

    def _passphrase_of(self, path: Path) -> bytes | None:
        if self.passphrase is not None or self.unlock is None:
            return self.passphrase
        return self.unlock(path) if is_encrypted(path, may_be_read=True) else None

    def _make_key(self, passphrase: bytes | None) -> SigningKey:
        key = SigningKey.generate()
        path = self.keys / f"{key.public_key.hex()[:16]}.key"
        with _written(path):
            write_new_key(path, key, passphrase)
            try:
                read_public_key(path, may_be_read=True)
            except InsecureHome as error:
                path.unlink()
                raise InsecureHome(
                    f"{self.keys} keeps no file from others' eyes",
                    hint="set MANYHANDS_PASSPHRASE_FILE: encrypted keys may lie there",
                ) from error
        return key

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with _written(self.directory):
            for place in (self.directory, self.keys):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
            held = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            lock(held)
            yield
        finally:
            os.close(held)


def read_chain(path: Path) -> list[Envelope]:
    """The events in a file; nothing of them is believed yet: see `key_state.fold`.

    Raises:
        FileNotFoundError: there is none.
        ConfigError: it cannot be read.
        BadKeyEvent: a line of it is no event, or cut off.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CHAIN_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    try:
        return decode_chain(data)
    except BadKeyEvent as error:
        hint = "restore it from a backup; every bundle that was exported has these events too"
        raise BadKeyEvent(f"{path}: {error}", hint=hint) from error


def encode_chain(events: Sequence[Envelope]) -> bytes:
    return b"".join(event.encode().hex().encode() + b"\n" for event in events)


def decode_chain(data: bytes) -> list[Envelope]:
    """
    Raises:
        BadKeyEvent: a line is no event, or cut off.
    """
    if len(data) > MAX_CHAIN_BYTES or data.count(b"\n") > MAX_EVENTS:
        raise BadKeyEvent("more than the key events of any account")
    if data and not data.endswith(b"\n"):
        raise BadKeyEvent("the last line is cut off")
    events = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            events.append(Envelope.decode(bytes.fromhex(line.decode("ascii"))))
        except (ValueError, IntegrityError) as error:
            raise BadKeyEvent(f"line {number} is no key event: {error}") from error
    return events


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "choose a directory that you can write"
        raise ConfigError(f"cannot write {path}: {error.strerror}", hint=hint) from error
