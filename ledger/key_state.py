"""Which keys speak for an account, and since and until when: a pure fold over its key events.

In: envelopes in order, each with the index it has in the account's log (its place in the chain,
where there is no log). Out: a value that answers whether a key may sign something, as of the first
so many entries of that log. A key event counts for what is signed under a checkpoint that covers
it, so that a revocation neither reaches back nor waits. Which of two branches of a log is the right
one is left to its witnesses: a fold sees one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from ledger.days import day_name
from ledger.errors import BadKeyEvent, BadObject, KeyNotValid
from ledger.key_events import DELEGATE, INCEPT, REVOKE, ROTATE, Delegation, KeyEvent, commitment
from protocol.canonical import decode
from protocol.errors import IntegrityError
from protocol.signing import Envelope

MAX_EVENTS = 10_000
Change = tuple[int, Delegation | None]  # from this index on; None: revoked


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyState:
    """An account's keys after some of its events."""

    account: bytes
    root_key: bytes
    next_key_hash: bytes
    head_oid: bytes  # of the last event
    n_events: int
    last_index: int
    changes: Mapping[bytes, tuple[Change, ...]] = field(default_factory=dict)  # by delegated key

    @classmethod
    def begin(cls, envelope: Envelope, swarm_id: bytes, index: int = 0) -> Self:
        """The state after an inception.

        Raises:
            BadKeyEvent: it is none, or not signed by the key it sets.
        """
        event = _read(envelope)
        if event.op != INCEPT:
            raise BadKeyEvent("the first event of an account is its inception")
        _check_signed(envelope, swarm_id, event.keys[0])
        oid = envelope.object_id(swarm_id)
        return cls(
            account=oid,
            root_key=event.keys[0],
            next_key_hash=event.next_key_hash or b"",
            head_oid=oid,
            n_events=1,
            last_index=index,
        )

    def after(self, envelope: Envelope, swarm_id: bytes, index: int | None = None) -> Self:
        """The state once this event follows, which stands at `index` in the account's log.

        Raises:
            BadKeyEvent: it does not follow, or who signed it may not.
        """
        event = _read(envelope)
        at = self.last_index + 1 if index is None else index
        if at <= self.last_index:
            raise BadKeyEvent(f"an event at {at} cannot follow one at {self.last_index}")
        links = (self.account, self.n_events, self.head_oid)
        if (event.account, event.seq, event.prev_oid) != links:
            raise BadKeyEvent(f"key event {event.seq} does not follow event {self.n_events - 1}")
        if event.op == ROTATE and commitment(event.keys[0]) != self.next_key_hash:
            raise BadKeyEvent("only the key committed to before may take over")
        _check_signed(envelope, swarm_id, event.keys[0] if event.op == ROTATE else self.root_key)
        moved = replace(
            self,
            head_oid=envelope.object_id(swarm_id),
            n_events=self.n_events + 1,
            last_index=at,
        )
        if event.op == ROTATE:
            return replace(moved, root_key=event.keys[0], next_key_hash=event.next_key_hash or b"")
        return replace(moved, changes=self._changed(event, at))

    def _changed(self, event: KeyEvent, at: int) -> Mapping[bytes, tuple[Change, ...]]:
        key = event.delegate.key if event.delegate else event.keys[0]
        so_far = self.changes.get(key, ())
        if event.op == REVOKE and (not so_far or so_far[-1][1] is None):
            raise BadKeyEvent("only a key that holds a delegation can be revoked")
        if event.op == DELEGATE and so_far and so_far[-1][1] is None:
            raise BadKeyEvent("a revoked key stays revoked: delegate to a new one")
        if event.op == DELEGATE and key == self.root_key:
            raise BadKeyEvent("the root key signs key events alone: delegate to another")
        return {**self.changes, key: (*so_far, (at, event.delegate))}

    def delegation(self, key: bytes, size: int | None = None) -> Delegation | None:
        """What `key` holds as of the first `size` entries of the log; None: nothing, or no more."""
        found = None
        for index, change in self.changes.get(key, ()):
            if size is None or index < size:
                found = change
        return found

    def revoked_at(self, key: bytes) -> int | None:
        """The index of the event that revoked it."""
        changes = self.changes.get(key, ())
        return changes[-1][0] if changes and changes[-1][1] is None else None

    def check(
        self, key: bytes, scope: str, *, epoch: int, size: int | None = None, exposed: int = 0
    ) -> Delegation:
        """Whether what `key` signed in this epoch, under a checkpoint of this size, is the
        account's; `exposed` ncr of the key's promises being unsettled with whoever asks.

        Raises:
            KeyNotValid: it is not, and why.
        """
        held = self.delegation(key, size)
        if held is None:
            revoked = self.revoked_at(key)
            if revoked is not None and (size is None or revoked < size):
                raise KeyNotValid(f"key {key.hex()[:16]}… was revoked by entry {revoked}")
            raise KeyNotValid(f"key {key.hex()[:16]}… holds no delegation of this account")
        if scope not in held.scopes:
            raise KeyNotValid(f"key {key.hex()[:16]}… may {', '.join(held.scopes)}, not {scope}")
        if epoch > held.not_after_epoch:
            until = day_name(held.not_after_epoch)
            raise KeyNotValid(f"key {key.hex()[:16]}… expired with {until}")
        if exposed > held.max_exposure:
            raise KeyNotValid(
                f"key {key.hex()[:16]}… may promise {held.max_exposure} ncr unsettled,"
                f" this makes {exposed}"
            )
        return held


def fold(events: Iterable[Envelope], swarm_id: bytes) -> KeyState:
    """The state after a whole chain that stands alone: each event's index is its place.

    Raises:
        BadKeyEvent: which event does not follow, or that there is none.
    """
    state: KeyState | None = None
    for at, event in enumerate(events):
        if at >= MAX_EVENTS:
            raise BadKeyEvent(f"more than {MAX_EVENTS} key events")
        state = state.after(event, swarm_id) if state else KeyState.begin(event, swarm_id)
    if state is None:
        raise BadKeyEvent("an account has an inception at least")
    return state


def _read(envelope: Envelope) -> KeyEvent:
    if envelope.type != KeyEvent.TYPE:
        raise BadKeyEvent(f"expected a {KeyEvent.TYPE}, got {envelope.type[:32]}")
    try:
        return KeyEvent.from_fields(decode(envelope.payload))
    except BadObject as error:
        raise BadKeyEvent(str(error)) from error


def _check_signed(envelope: Envelope, swarm_id: bytes, key: bytes) -> None:
    try:
        KeyEvent.open(envelope, swarm_id, key)
    except IntegrityError as error:
        raise BadKeyEvent(f"not signed by the key that may: {error}") from error
