"""How sessions are paid for in a new swarm: `swarm create --funding granted`, as a policy.

In: issuers and witnesses as people name them. Out: the ledger's policy, which the swarm's id is the
hash of, and where its witnesses are found. Without any, the founder's home issues the credit and
its node is the one witness: it has a key of its own for that, in `HOME/witness/`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from ledger.cosigning import quorum
from ledger.notes import COSIGNATURE_V1, NoteKey
from ledger.options import Account, OwnerType
from ledger.policy import BILATERAL, GRANTED, MAX_EPOCH_S, OPEN_POLICY, SETTLED, Policy
from ledger.witness import WitnessBook
from ledger.worth import Worth
from manyhands.home import Home, open_identity
from manyhands.swarm_options import DurationType, PlaceType, duration
from protocol.canonical import encode
from protocol.errors import IntegrityError, ManyhandsError, UsageError
from protocol.signing import check_public_key

WITNESS = "witness"
UNKNOWN = "-"  # where a witness is: told later, `swarm witness NAME WHERE`


@dataclass(frozen=True, slots=True)
class NamedWitness:
    """A witness as the command line names it."""

    key: NoteKey
    where: str  # a peer id, an address, a URL, or that nobody knows yet


class WitnessType(click.ParamType[Any]):
    """`VKEY[@WHERE]`: a witness's verifier key; a peer, an address or a URL that answers for it."""

    name = "VKEY[@WHERE]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> NamedWitness:
        vkey, _, where = str(value).partition("@")
        try:
            key = NoteKey.parse(vkey)
            check_public_key(key.public_key)
            if key.kind != COSIGNATURE_V1:
                self.fail(f"{vkey} is a log's key, not a witness's", param, ctx)
        except ManyhandsError as error:
            self.fail(f"{value!r}: {error}; `manyhands ledger witness key` prints one", param, ctx)
        return NamedWitness(key, PlaceType().convert(where, param, ctx) if where else UNKNOWN)


class MicrosType(click.ParamType[Any]):
    """An exact decimal, in millionths."""

    name = "AMOUNT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        whole, _, part = str(value).partition(".")
        text = f"{whole}{part}"
        if not whole or len(part) > 6 or len(whole) > 9 or not (text.isascii() and text.isdigit()):
            self.fail(f"{value!r} is no amount: write 1.00, up to six decimals", param, ctx)
        return int(whole) * 10**6 + int(part.ljust(6, "0"))


MIN_EPOCH_MS = 60_000  # shorter ones end before a session that began in them
MAX_EPOCHS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long an epoch lasts, and for how many more what is; None: as in the swarm `open`."""

    epoch: int | None = None  # ms
    grace: int | None = None
    retain: int | None = None
    holdback: int | None = None

    @property
    def chosen(self) -> dict[str, int]:
        """By the names of a policy's fields."""
        seconds = None if self.epoch is None else self.epoch // 1000
        named = {
            "epoch_s": seconds,
            "grace_epochs": self.grace,
            "retain_epochs": self.retain,
            "holdback_epochs": self.holdback,
        }
        return {name: value for name, value in named.items() if value is not None}


AS_OPEN = Pace()


def pace_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that stand in a command's arguments as `Pace` has them."""
    epochs = click.IntRange(0, MAX_EPOCHS)
    for option in (
        click.option(
            "--holdback",
            type=epochs,
            metavar="EPOCHS",
            help="With granted: for how many more what was settled can still be disputed. "
            "Default: 1.",
        ),
        click.option(
            "--retain",
            type=epochs,
            metavar="EPOCHS",
            help="With granted: for how many more receipts of settled tabs stay. Default: 30.",
        ),
        click.option(
            "--grace",
            type=epochs,
            metavar="EPOCHS",
            help="With granted: for how many more a node waits to be settled with. Default: 1.",
        ),
        click.option(
            "--epoch",
            type=DurationType(),
            help="With granted: what is settled together, 1m to 366d. Default: 1d.",
        ),
    ):
        command = option(command)
    return command


def funding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--credit-is",
            nargs=2,
            type=(MicrosType(), str),
            metavar="AMOUNT CURRENCY",
            help="With settled: what a credit is worth, for example 1.00 EUR. For ever.",
        ),
        click.option(
            "--witness",
            "witnesses",
            type=WitnessType(),
            multiple=True,
            help="With granted: who cosigns logs. Repeat for more. Default: this home's node.",
        ),
        click.option(
            "--issuer",
            "issuers",
            type=OwnerType(),
            multiple=True,
            help="With granted: whose promises are credit. Repeat for more. Default: this home.",
        ),
        click.option(
            "--funding",
            type=click.Choice([BILATERAL, GRANTED, SETTLED]),
            help="How work is paid: pairs owe each other (default), by credit that is granted, or "
            "by credit that is worth money (--credit-is).",
        ),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Funding:
    """What a founding policy says of it; nothing, where pairs owe each other."""

    policy: Policy | None = None
    witnesses: tuple[tuple[str, str], ...] = ()  # by name, where

    @property
    def encoded(self) -> bytes:
        return encode(self.policy.to_fields()) if self.policy else b""

    @property
    def told(self) -> str:
        """For whoever founds the swarm."""
        if self.policy is None:
            return ""
        n, k = len(self.witnesses), self.policy.quorum_k
        issuers = len(self.policy.issuers)
        alone = (
            "while the one witness is away, nothing is granted or allotted, and who runs it could"
            " vouch for two versions of a log; of four witnesses one may fail or lie (--witness)"
        )
        worth = Worth.by(self.policy)
        money = f", and is worth {worth.of(10**9)} {worth.currency}" if worth else ""
        every = duration(self.policy.epoch_s)
        return (
            f"credit: promised by {issuers} account{'s' * (issuers > 1)}{money}; {k} of {n} witness"
            f"{'es' * (n > 1)} must sign each spend log; settled every {every}. This never changes."
            + (f"\n{alone}" if n == 1 else "")
        )


def check_funding(
    funding: str | None,
    issuers: Sequence[Account],
    witnesses: Sequence[NamedWitness],
    credit_is: tuple[int, str] | None = None,
    pace: Pace = AS_OPEN,
) -> None:
    """
    Raises:
        UsageError: the flags do not go together.
    """
    if funding not in (GRANTED, SETTLED) and pace.chosen:
        raise UsageError("only granted credit is settled by epochs", hint="--funding granted")
    if pace.epoch is not None and not MIN_EPOCH_MS <= pace.epoch <= MAX_EPOCH_S * 1000:
        raise UsageError("an epoch lasts from one minute to 366 days", hint="--epoch 1d")
    if funding not in (GRANTED, SETTLED) and (issuers or witnesses):
        raise UsageError("only granted credit has issuers and witnesses", hint="--funding granted")
    if (credit_is is not None) != (funding == SETTLED):
        raise UsageError(
            "what a credit is worth is said of a settled swarm, and of no other",
            hint="--funding settled --credit-is 1.00 EUR",
        )
    if credit_is is not None:
        micros, currency = credit_is
        if not re.fullmatch("[A-Z]{3}", currency):
            raise UsageError(
                f"a currency is three capital letters (ISO 4217), not {currency[:20]!r}",
                hint="--credit-is 1.00 EUR",
            )
        if micros <= 0:
            raise UsageError(
                "a credit of a settled swarm is worth more than 0", hint="--credit-is 1.00 EUR"
            )


def found_funding(
    place: Home,
    name: str,
    funding: str | None,
    issuers: Sequence[Account],
    witnesses: Sequence[NamedWitness],
    credit_is: tuple[int, str] | None = None,
    pace: Pace = AS_OPEN,
) -> Funding:
    """What the flags come to. `place`: the swarm's home, which may become issuer and witness."""
    if funding not in (GRANTED, SETTLED):
        return Funding()
    micros, currency = credit_is or (0, "")
    accounts = tuple(sorted({*issuers} or {open_identity(place.client).public_key}))
    named = sorted(witnesses or [_own_witness(place, name)], key=lambda each: each.key.name)
    try:
        policy = replace(
            OPEN_POLICY,
            name=name,
            mode=funding,
            credit_micros=micros,
            currency=currency,
            assets=accounts,
            issuers=accounts,
            witnesses=tuple((each.key.name, each.key.public_key) for each in named),
            quorum_k=quorum(len(named)),
            **pace.chosen,
        )
    except IntegrityError as error:
        raise UsageError(f"a swarm cannot be funded so: {error}") from error
    return Funding(policy, tuple((each.key.name, each.where) for each in named))


def _own_witness(place: Home, swarm: str) -> NamedWitness:
    """This home's, made now: its node answers for it once it runs."""
    directory, node = place.root / WITNESS, open_identity(place.node)
    identity = open_identity(directory)
    key = NoteKey(f"{swarm}/{node.peer_id[-10:]}", COSIGNATURE_V1, identity.public_key)
    WitnessBook.open(directory, key.name, identity.key, lambda _: None).close()
    return NamedWitness(key, node.peer_id)
