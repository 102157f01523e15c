"""What a home brings along where issuers' credit pays: a node's escrow, and its witness.

In: a home and its party. Out: books of all spend logs in `node/`, what was settled and found out
there, and, where the swarm's policy names a witness whose key lies here, its book. In other swarms
there is none of it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ledger.auditors import read_auditors
from ledger.epochs import epoch_now
from ledger.escrow import Escrow
from ledger.findings import Findings
from ledger.funding import Purse
from ledger.settled import SettledBook
from ledger.spend_books import SpendBooks
from ledger.told_objects import (
    FAULTS,
    SETTLEMENTS,
    Kept,
    KeptFaults,
    KeptSettlements,
    ToldObjects,
)
from ledger.witness import WitnessBook
from manyhands.home import KEY_NAME, SWARMS, Home, open_identity
from manyhands.party import Party
from protocol.clock import wall_ms
from protocol.key_files import read_public_key


@dataclass(frozen=True, slots=True)
class Credit:
    """A node's part in the credit of its swarm."""

    escrow: Escrow | None = None
    objects: ToldObjects | None = None
    witness: WitnessBook | None = None


@contextmanager
def open_credit(home: Home, party: Party) -> Iterator[Credit]:
    """
    Raises:
        DamagedLedger, ForeignLedger, ConfigError: books or witness cannot be used as they are.
    """
    policy = party.policy
    if not policy.issuers:
        yield Credit()
        return
    with ExitStack() as stack:
        books = stack.enter_context(SpendBooks.open(home.node, party.swarm_id, policy.quorum()))
        witness = None
        if (found := own_witness(home, party)) is not None:
            from manyhands.witnessing.command import log_keys

            directory, name = found
            log_key = log_keys((), (), True, party.swarm_id)
            key = open_identity(directory).key
            witness = stack.enter_context(WitnessBook.open(directory, name, key, log_key))
        settled = stack.enter_context(SettledBook.open(home.node, party.swarm_id))
        findings = stack.enter_context(Findings.open(home.node, party.swarm_id))
        kinds: dict[str, Kept] = {
            SETTLEMENTS: KeptSettlements(
                settled,
                policy,
                books.allotted,
                lambda: epoch_now(policy, books, wall_ms()),
                party.identity.public_key,
            ),
            FAULTS: KeptFaults(findings, read_auditors(home.root) | {party.identity.public_key}),
        }
        escrow = Escrow(Purse(party.identity.public_key, policy, books))
        yield Credit(escrow, ToldObjects(kinds, party.swarm_id), witness)


def own_witness(home: Home, party: Party) -> tuple[Path, str] | None:
    """Where the witness lies that the swarm's policy names, and its name there; None: not here.

    It is the swarm's home that has it, or the home around it, of which several swarms may be.
    """
    places = [home.root / "witness"]
    if home.root.parent.name == SWARMS:
        places.append(home.root.parent.parent / "witness")
    names = {key: name for name, key in party.policy.witnesses}
    for directory in places:
        path = directory / KEY_NAME
        if path.exists() and (name := names.get(read_public_key(path))) is not None:
            return directory, name
    return None
