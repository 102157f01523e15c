"""A mandate: what lets a key pay for an account, in a form that proves itself.

In: an account's key events, as they stand in its spend log. Out: those of them up to the delegation
that lets a key `pay`, as terms carry them, so that whoever holds a receipt can see that its payer's
key spoke for the payer, until when and for how much. The account is a key that has a spend log, and
that key its events begin with: nobody else can say who speaks for it. Whether a key was revoked
since stands in the log, and is looked at by honest payees before they serve (`funding.py`): who has
the key may date what it signs as it likes.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from ledger.days import day_name
from ledger.errors import BadKeyEvent, BadObject, KeyNotValid
from ledger.key_events import DELEGATE, Delegation, KeyEvent
from ledger.key_state import MAX_EVENTS as MAX_KEY_EVENTS
from ledger.key_state import KeyState
from ledger.policy import OPEN_POLICY
from ledger.spend_leaf import SpendLeaf
from protocol.canonical import decode, encode
from protocol.errors import IntegrityError
from protocol.signing import Envelope

PAY = "pay"
MAX_EVENTS = 64  # that terms carry; an account with more delegates from a new home
Placed = tuple[int, Envelope]  # an event, and its index in the account's spend log
Told = tuple[KeyState | None, list[Placed]]  # what a log's key events come to, and these
NOTHING_TOLD: Told = (None, [])


def events_in(
    account: bytes, swarm_id: bytes, leaves: Iterable[SpendLeaf], known: Told = NOTHING_TOLD
) -> Told:
    """The key events of an account in its spend log, and what they come to; None: there are none.

    What does not follow, or begins with another key than the account's, says nothing; nor does what
    is beyond `MAX_KEY_EVENTS`. known: what earlier leaves say: these follow them.
    """
    state, placed = known[0], list(known[1])
    for leaf in leaves:
        envelope = leaf.envelope
        if envelope.type != KeyEvent.TYPE:
            continue
        if len(placed) == MAX_KEY_EVENTS:
            break
        try:
            if state is None:
                begun = KeyState.begin(envelope, swarm_id, leaf.index)
                if begun.root_key != account:
                    continue
                state = begun
            else:
                state = state.after(envelope, swarm_id, leaf.index)
        except BadKeyEvent:
            continue
        placed.append((leaf.index, envelope))
    return state, placed


def mandate_of(events: Sequence[Envelope], key: bytes) -> bytes:
    """The events up to the last that delegates to this key, in one string of bytes.

    Raises:
        KeyNotValid: none does, or there are more than terms can carry.
    """
    for n_events in range(len(events), 0, -1):
        event = KeyEvent.from_fields(decode(events[n_events - 1].payload))
        if event.op == DELEGATE and event.delegate and event.delegate.key == key:
            break
    else:
        raise KeyNotValid(f"key {key.hex()[:16]}… holds no delegation of this account")
    if n_events > MAX_EVENTS:
        raise KeyNotValid(f"a mandate has at most {MAX_EVENTS} key events, this one {n_events}")
    return encode((1, tuple(each.encode() for each in events[:n_events])))


@lru_cache(maxsize=256)
def open_mandate(mandate: bytes, account: bytes, key: bytes, swarm_id: bytes) -> Delegation:
    """What a mandate lets the key do, once every signature in it holds. Remembered by its bytes.

    Raises:
        IntegrityError: it is none, begins with another key than the account's, or lets it not pay.
    """
    match decode(mandate):
        case [1 as version, [*told]] if version is not True and 0 < len(told) <= MAX_EVENTS:
            events = [_envelope(each) for each in told]
        case _:
            raise BadObject("a mandate is a version and some key events")
    state = KeyState.begin(events[0], swarm_id)
    if state.root_key != account:
        raise BadObject("the mandate begins with another key than the account's")
    for event in events[1:]:
        state = state.after(event, swarm_id)
    return state.check(key, PAY, epoch=0)


def check_promise(held: Delegation, amount: int, at_ms: int) -> None:
    """Whether a key that holds this may have promised so much on one tab then.

    Raises:
        KeyNotValid: it may not.
    """
    if (epoch := OPEN_POLICY.epoch_of(at_ms)) > held.not_after_epoch:
        until, today = day_name(held.not_after_epoch), day_name(epoch)
        raise KeyNotValid(f"key {held.key.hex()[:16]}… expired with {until}, it is {today}")
    if amount > held.max_exposure:
        raise KeyNotValid(
            f"key {held.key.hex()[:16]}… may promise {held.max_exposure} ncr unsettled,"
            f" this makes {amount}"
        )


def _envelope(data: object) -> Envelope:
    if type(data) is not bytes:
        raise BadObject("a key event is an envelope")
    try:
        return Envelope.decode(data)
    except IntegrityError as error:
        raise BadObject(f"a mandate's key event cannot be read: {error}") from error
