"""A record that this home signs: made anew, or one that others made and that lacks signatures.

In: a home, and what to say about which model. Out: a signed record in the home's state, told to a
few members. Which of the home's keys signs is what the rules say: its founder's, node's or
clients'.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from manyhands.home import MEMBERSHIP, Home, open_identity
from manyhands.loops import run
from manyhands.membership import FOUNDER, keep_state, load_state
from manyhands.models import HubAway, NotHere, find_model
from manyhands.progress import shown
from manyhands.swarm_telling import learn_and_tell
from protocol.address import Address
from protocol.clock import wall_ms
from protocol.errors import UsageError
from protocol.identity import load_identity, peer_id_from_public_key
from protocol.membership.advisories import Advisory
from protocol.membership.gathering import Gathered, Gathering
from protocol.membership.releases import Release
from protocol.membership.rules import Quorum
from protocol.membership.state import SwarmState
from protocol.passphrases import ask
from protocol.signing import Envelope, SigningKey, add_signature

DIGEST_CHARS = 8  # at least so many of a digest name a revision
MAX_AHEAD_MS = 600_000  # of a record's time, before somebody else signs it, too

R = TypeVar("R", Release, Advisory)


@dataclass(frozen=True, slots=True)
class Named:
    """A revision, and what to call it."""

    name: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Signed(Generic[R]):
    """What became of it, and who was told."""

    gathered: Gathered[R]
    told: Sequence[str]

    def view(self) -> dict[str, Any]:
        return {**signatures(self.gathered), "told": list(self.told)}


def signatures(gathered: Gathered[Any]) -> dict[str, Any]:
    signers = gathered.envelope.signers
    return {
        "signers": [peer_id_from_public_key(key) for key in signers],
        "needs": gathered.needs,
        "stands": gathered.stands,
    }


def fresh_state(home: Home, via: Sequence[Address] = ()) -> SwarmState:
    """What the swarm says now, as far as anybody answers."""
    load_state(home)
    run(learn_and_tell(home, via))
    return load_state(home)


def sign(
    home: Home,
    state: SwarmState,
    quorum: Quorum | None,
    of: Callable[[SwarmState], Gathering[R]],
    make: Callable[[int], R],
    is_same: Callable[[R], bool],
    via: Sequence[Address],
) -> Signed[R]:
    """Sign what waits for signatures and says the same, else a new record.

    Args:
        make: the record, at a time.
        is_same: whether a record says what is wanted.

    Raises:
        UsageError: nobody of this home may.
    """
    now_ms, gathering = wall_ms(), of(state)
    slot = make(now_ms).slot
    found = [one for one in gathering.in_slot(slot) if is_same(one.record)]
    found = [one for one in found if one.record.stamp_ms <= now_ms + MAX_AHEAD_MS]
    before = max((one.record.stamp_ms for one in gathering.in_slot(slot) if one.stands), default=0)
    keys = _keys(home, quorum)
    if found and (
        unused := [key for key in keys if key.public_key not in found[-1].envelope.signers]
    ):
        envelope = add_signature(found[-1].envelope, state.swarm_id, unused[0])
    elif found:
        envelope = found[-1].envelope
    else:
        # Later than what it replaces, also when that was signed by a clock ahead of ours.
        envelope = make(max(now_ms, before + 1)).seal(state.swarm_id, keys[0])
    state.learn(envelope)
    keep_state(home, state)
    told = run(learn_and_tell(home, via))
    return Signed(_held(of(load_state(home)), envelope), told)


def _held(gathering: Gathering[R], envelope: Envelope) -> Gathered[R]:
    for one in gathering:
        if one.envelope.payload == envelope.payload:
            return one
    raise UsageError(
        "the swarm has a later word on this already", hint="manyhands models releases shows it"
    )


def _keys(home: Home, quorum: Quorum | None) -> list[SigningKey]:
    """Those of this home that count, in order."""
    founder = home.root / MEMBERSHIP / FOUNDER
    mine = [load_identity(founder, ask)] if founder.exists() else []
    mine += [open_identity(home.node), open_identity(home.client)]
    counted = [one.key for one in mine if quorum and one.public_key in quorum.keys]
    if counted:
        return counted
    named = [peer_id_from_public_key(key) for key in quorum.keys] if quorum else []
    hint = (
        f"ask one of {', '.join(named)}"
        if named
        else "the founder gives one: manyhands swarm rules FILE"
    )
    raise UsageError("the swarm's rules give no key of this home a say in that", hint=hint)


def revision(text: str, state: SwarmState, *, name: str = "", digest: str = "") -> Named:
    """The revision a person means: one that lies here, or one that the swarm's records know.

    Raises:
        UsageError: the records know several.
        NoSuchModel, BadModel, HubRefused: it is nowhere, or not sound.
    """
    if digest or _is_digest(text):
        return _by_digest(digest or text, name or ("" if _is_digest(text) else text), state)
    try:
        with shown(text) as progress:
            found = find_model(text, progress=progress)
    except (NotHere, HubAway):
        if known := recorded(text, state):
            return known
        raise
    return Named(name or found.name, found.manifest.digest)


def recorded(text: str, state: SwarmState) -> Named | None:
    """A revision that some release names, by its name or digest.

    Raises:
        UsageError: there are several.
    """
    known = [one.record for one in state.governance.releases]
    if _is_digest(text):
        known = [record for record in known if record.manifest.hex().startswith(text.lower())]
    else:
        known = [record for record in known if record.model == text]
    digests = list(dict.fromkeys(record.manifest for record in known))
    if len(digests) > 1:
        named = ", ".join(one.hex()[:16] for one in digests)
        raise UsageError(
            f"{text} may be several revisions", hint=f"name one by its digest: {named}"
        )
    return Named(known[-1].model, digests[0]) if digests else None


def _by_digest(digest: str, name: str, state: SwarmState) -> Named:
    if known := recorded(digest, state):
        return Named(name or known.name, known.digest)
    try:
        whole = bytes.fromhex(digest)
    except ValueError as error:
        raise UsageError(f"{digest[:80]!r} is no digest") from error
    if len(whole) != 32 or not name:
        raise UsageError(
            f"no release names a revision {digest[:64]}",
            hint="give all 64 digits of it with --digest, beside the model's name",
        )
    return Named(name, whole)


def _is_digest(text: str) -> bool:
    is_hex = all(c in "0123456789abcdefABCDEF" for c in text)
    return is_hex and DIGEST_CHARS <= len(text) <= 64
