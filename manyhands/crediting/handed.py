"""Lines of a hand-over: what a node set aside for an account, as that account may take it in.

In: a desk of the giver, or of the taker. Out: settlements with the giver's signature alone, as text
to carry to another machine; there, both signatures and deposits. A file beside the giver's log
says of which allotments a line was printed: what a run that was cut off had set aside without, the
next one counts towards its own amount.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ledger.lines import peer_name
from ledger.policy import Policy
from ledger.settled import read_settlement
from ledger.spending import Deposit, Settlement
from manyhands.crediting.desk import Desk
from manyhands.crediting.transfer import allot, begun, settlement_of, settlements_of
from manyhands.private_files import write_whole
from protocol.errors import IntegrityError, NoQuorum, NotFunded, UsageError
from protocol.signing import Envelope, add_signature

NOTE_NAME = "handed-over"
YEAR_S = 366 * 86_400  # after which an owner that is a node gives back what it did not take in
MAX_AHEAD = 2  # epochs that a giver's witnesses may be ahead of those whom we heard
AGAIN = "on the node's machine: manyhands ledger hand-over OWNER --again"


@dataclass(frozen=True, slots=True)
class Handed:
    """A line, read. Who signed it was not looked at yet."""

    signed: Envelope
    said: Settlement

    @classmethod
    def read(cls, line: str) -> "Handed":
        """
        Raises:
            UsageError: it is none.
        """
        try:
            signed = Envelope.decode(urlsafe_b64decode(line))
            said = read_settlement(signed)
        except (ValueError, IntegrityError) as error:
            hint = "copy all that `manyhands ledger hand-over` printed behind `accept`"
            raise UsageError("that is no line of a `hand-over`", hint=hint) from error
        parties = said.payer, said.payee, said.asset
        if said != settlement_of(said.epoch, *parties, said.claims):  # we sign no other
            raise UsageError("that line says more than what is handed over", hint=AGAIN)
        return cls(signed, said)

    def __str__(self) -> str:
        return urlsafe_b64encode(self.signed.encode()).decode()


class Printed:
    """Of which allotments to one account a line was printed."""

    def __init__(self, directory: Path, to: bytes, asset: bytes) -> None:
        self._path, self._prefix = directory / NOTE_NAME, f"{to.hex()} {asset.hex()} "

    def oids(self) -> set[bytes]:
        start = len(self._prefix)
        ours = (row[start:] for row in self._rows() if row.startswith(self._prefix))
        return {bytes.fromhex(oid) for oid in ours}

    def keep(self, handed: Sequence[Handed]) -> None:
        """These lines, which have all that is not taken in, were printed."""
        others = [row for row in self._rows() if not row.startswith(self._prefix)]
        ours = [self._prefix + oid.hex() for each in handed for oid, _ in each.said.claims]
        write_whole(self._path, "".join(f"{row}\n" for row in (*others, *ours)).encode())

    def _rows(self) -> list[str]:
        return self._path.read_text().splitlines() if self._path.exists() else []


async def set_aside(
    desk: Desk, to: bytes, asset: bytes, amount: int | None, printed: Printed
) -> None:
    """As the giver. amount: None: all there is; what no line was printed of counts towards it.

    Raises:
        NotFunded: there is not so much. NoQuorum, PeerUnreachable, DamagedLedger: see `Desk.write`.
    """
    try:
        await desk.sync()
        left = begun(desk, desk.log.account, to, asset)
        if amount is None:
            more = desk.books.available(desk.log.account, asset)
        else:
            known = printed.oids()
            more = max(0, amount - sum(ncr for oid, ncr in left.items() if oid not in known))
        if more or not left:
            await allot(desk, to, asset, more, owner_epochs(desk.policy))
    except NoQuorum as error:
        error.hint = "run it again, with the same AMOUNT: what is set aside by then counts in it"
        raise


def owner_epochs(policy: Policy) -> int:
    """A year, rounded up."""
    return -(-YEAR_S // policy.epoch_s)


def handed_by(desk: Desk, to: bytes, asset: bytes) -> list[Handed]:
    """As the giver: all that was set aside for an account, and not taken in as far as is known.

    Raises:
        NotFunded: nothing is.
    """
    swarm_id, key = desk.party.swarm_id, desk.party.identity.key
    found = settlements_of(desk, desk.log.account, to, asset)
    if not found:
        raise NotFunded("", f"nothing is set aside for {peer_name(to)} that it has not taken in")
    return [Handed(said.seal(swarm_id, key), said) for said in found]


async def take_in(desk: Desk, handed: Sequence[Handed]) -> int:
    """As the taker: how much came in, also of a run that was cut off before witnesses signed it.

    Raises:
        UsageError: a line is of another swarm, or was changed.
        NotFunded: nothing stands behind one. NoQuorum and others: see `Desk.publish`.
    """
    oids = {oid for each in handed for oid, _ in each.said.claims}
    for each in handed:
        _check_signed(desk, each)
    before = _deposited(desk, oids)
    await desk.sync()
    for each in handed:
        _check_set_aside(desk, each.said)
    asked = {oid: desk.log.asked(oid) for oid in oids}
    objects = [piece for each in handed for piece in _both_and_deposit(desk, each, asked)]
    if objects:
        await desk.publish(objects)
    return _deposited(desk, oids) - before


def _both_and_deposit(desk: Desk, handed: Handed, asked: dict[bytes, int]) -> Iterator[Envelope]:
    """What a line adds to what was asked of its allotments, which is nothing for an old one."""
    added = 0
    for oid, ncr in handed.said.claims:
        added += max(0, ncr - asked[oid])
        asked[oid] = max(ncr, asked[oid])
    if added:
        swarm_id, key = desk.party.swarm_id, desk.party.identity.key
        both = add_signature(handed.signed, swarm_id, key)
        yield both
        yield Deposit(settle_oid=both.object_id(swarm_id), amount=added).seal(swarm_id, key)


def _deposited(desk: Desk, oids: set[bytes]) -> int:
    found = (desk.books.allotted(oid) for oid in oids)
    return sum(made.deposited for made in found if made is not None)


def _check_signed(desk: Desk, handed: Handed) -> None:
    try:
        Settlement.open(handed.signed, desk.party.swarm_id, handed.said.payer)
    except IntegrityError as error:
        raise UsageError(
            f"that line is not of swarm {desk.policy.name}, or not as it was printed: {error}",
            hint=f"--swarm NAME, the one it is of; or have it printed anew, {AGAIN}",
        ) from error


def _check_set_aside(desk: Desk, said: Settlement) -> None:
    """Nothing stands behind it, so that our log should not build on it."""
    giver, parties = peer_name(said.payer), (said.payer, said.payee, said.asset)
    if said.epoch > desk.epoch + MAX_AHEAD:
        raise UsageError(f"{giver} dates that line in epoch {said.epoch}, now is {desk.epoch}")
    for oid, ncr in said.claims:
        made = desk.books.allotted(oid)
        is_so = made is not None and (made.payer, made.payee, made.asset) == parties
        if made is None or not is_so or ncr > made.amount - made.returned:
            raise NotFunded(
                "",
                f"nothing of that is set aside by {giver}, as far as is known where it was asked",
                hint=f"--join ADDR of a node that knows its log, its own for one; or, {AGAIN}",
            )
