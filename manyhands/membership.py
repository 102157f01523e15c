"""What a home keeps of the swarm it belongs to: `membership/` beside its keys and ledgers.

In: a home. Out: the swarm's state, a credential for each party, where to begin, and in an admin's
home the founder's key and the register of who joined. Each swarm has a home of its own under the
home that a person names, `swarms/NAME/`, with keys of its own: nobody can tell that a peer of one
swarm is also in another. Several processes share these files; a change is merged under a lock.
"""

import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ledger.swarms import funding_of
from manyhands import acquaintances
from manyhands.home import JOIN_HINT, KEY_NAME, Home, open_identity
from manyhands.home import MEMBERSHIP as DIRECTORY
from manyhands.private_files import write_whole
from protocol.address import Address
from protocol.clock import wall_ms
from protocol.errors import ConfigError, IntegrityError, ManyhandsError, UsageError
from protocol.file_lock import lock
from protocol.identity import Identity, PeerId, load_identity, load_or_create_identity, load_peer_id
from protocol.membership.certificates import Certificate
from protocol.membership.gate import Membership
from protocol.membership.roles import Role
from protocol.membership.state import SwarmState
from protocol.passphrases import ask, given
from protocol.path_book import Met
from protocol.signing import Envelope, SigningKey

FOUNDING, STATE, FOUNDER, REGISTER, LOCK = (
    "founding",
    "state",
    "founder.key",
    "register.jsonl",
    "lock",
)
NOBODY = Met()
WORKERS, WORKERS_MS = frozenset({Role.PROVIDE, Role.USE}), 365 * 86_400_000


def load_state(home: Home) -> SwarmState:
    """
    Raises:
        ConfigError: it is not there, or cannot be read.
    """
    place = home.root / DIRECTORY
    try:
        state = SwarmState(Envelope.decode((place / FOUNDING).read_bytes()))
        if (place / STATE).exists():
            state.merge((place / STATE).read_bytes())
    except (OSError, IntegrityError) as error:
        raise ConfigError(
            f"cannot read the membership in {place}: {error}", hint=JOIN_HINT
        ) from error
    return state


def open_membership(home: Home, who: str, identity: Identity) -> Membership:
    """Our own, as far as we know it to hold.

    Raises:
        ConfigError: its files cannot be read.
        MembershipEnded, NotAMember: we do not belong there any more.
    """
    state, credential = load_state(home), b""
    with suppress(FileNotFoundError):
        credential = (home.root / DIRECTORY / f"{who}.member").read_bytes()
    try:
        state.roles(identity.peer_id, credential, wall_ms())
    except ManyhandsError as error:
        error.hint = "ask for a new invite, then: manyhands swarm join mh://…"
        raise
    return Membership(state, credential)


def enter(
    home: Home,
    state: SwarmState,
    credentials: Mapping[str, bytes],
    addresses: Sequence[Address] = (),
) -> None:
    """Make this the home of a swarm. `credentials`: by party, `node` or `client`.

    Raises:
        IntegrityError: its founder wrote what nobody could be paid by.
    """
    funding_of(state.policy)
    place = home.root / DIRECTORY
    place.mkdir(mode=0o700, exist_ok=True)
    for who, credential in credentials.items():
        write_whole(place / f"{who}.member", credential)
    write_whole(place / STATE, state.encode())
    if addresses:
        acquaintances.write(place, tuple(dict.fromkeys(addresses)))
    write_whole(place / FOUNDING, state.founding.encode())  # last: with it the home is a swarm's


def adopt(home: Home, nodes: Sequence[Home]) -> None:
    """Make the nodes that this home runs members of its swarm; one of no swarm has none to make.

    Raises:
        UsageError: this home may not admit anybody.
    """
    if not (home.root / DIRECTORY).exists():
        return
    state, now_ms = load_state(home), wall_ms()
    key = admin_key(home, state)
    for node in nodes:
        certificate = Certificate(
            peer=open_identity(node.node).public_key,
            roles=WORKERS,
            issued_ms=now_ms,
            expires_ms=now_ms + WORKERS_MS,
        )
        enter(node, state, {"node": certificate.seal(state.swarm_id, key).encode()})


def leave(home: Home) -> None:
    """Belong to no swarm any more; keys and ledgers stay."""
    shutil.rmtree(home.root / DIRECTORY)


def keep_state(home: Home, state: SwarmState, met: Met = NOBODY) -> None:
    """Add to what the home knows; what others of it learned meanwhile stays.

    met: while the network is away a home meets nobody but itself, and must find the others again.

    Raises:
        ConfigError: its files cannot be read or written.
    """
    with _locked(home):
        kept = load_state(home)
        before = kept.digest
        kept.merge(state.encode())
        if kept.digest != before:
            write_whole(home.root / DIRECTORY / STATE, kept.encode())
        if met.reached:
            place, own = home.root / DIRECTORY, _own(home)
            written = acquaintances.read(place)
            reached = tuple(_still_to_dial(met.reached, kept, own))
            left = tuple(_still_to_dial(written, kept, own))
            chosen = acquaintances.chosen(met._replace(reached=reached), left)
            if chosen != written:
                acquaintances.write(place, chosen)


def known_addresses(home: Home) -> tuple[Address, ...]:
    """Where to find the swarm: whom we met last, and what its policy says.

    Without whom an admin revoked: it would see our key and where we are. Who was invited again
    after that is found through the others.
    """
    if not (home.root / DIRECTORY).exists():
        return ()
    state = load_state(home)
    both = (*acquaintances.read(home.root / DIRECTORY), *state.policy.addresses)
    return tuple(_still_to_dial(dict.fromkeys(both), state, _own(home)))


def admin_key(home: Home, state: SwarmState) -> SigningKey:
    """The key by which this home may admit others: the founder's, else its node's.

    Raises:
        UsageError: it may not.
    """
    path = home.root / DIRECTORY / FOUNDER
    if path.exists():
        return load_identity(path, ask).key
    node = open_identity(home.node)
    if not state.policy.may_admit(node.public_key):
        raise UsageError(
            f"this home is no admin of swarm {state.policy.name}",
            hint="run it where the swarm was founded, or have this node made an admin there",
        )
    return node.key


def founder_key(home: Home) -> SigningKey:
    """
    Raises:
        UsageError: it is not here.
    """
    path = home.root / DIRECTORY / FOUNDER
    if not path.exists():
        raise UsageError("only the founder may do that", hint="run it where the swarm was founded")
    return load_identity(path, ask).key


def make_founder(home: Home) -> Identity:
    (home.root / DIRECTORY).mkdir(mode=0o700, exist_ok=True)
    return load_or_create_identity(home.root / DIRECTORY / FOUNDER, ask, given())


def register_path(home: Home) -> Path:
    return home.root / DIRECTORY / REGISTER


def _own(home: Home) -> set[PeerId]:
    """Whom its keys prove it to be: read without a passphrase, for nodes ask this every minute."""
    keys = (party / KEY_NAME for party in (home.node, home.client))
    return {load_peer_id(key) for key in keys if key.exists()}


def _still_to_dial(
    addresses: Iterable[Address], state: SwarmState, own: Collection[PeerId]
) -> Iterator[Address]:
    for address in addresses:
        if address.peer_id not in own and not state.is_sent_off(address.peer_id):
            yield address


@contextmanager
def _locked(home: Home) -> Iterator[None]:
    """
    Raises:
        ConfigError: it cannot be; a disk may be full, or all our files open.
    """
    path = home.root / DIRECTORY / LOCK
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot hold {path}: {error.strerror}") from error
    try:
        lock(file)
        yield
    finally:
        os.close(file)
