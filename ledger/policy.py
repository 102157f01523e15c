"""The policy of a swarm: the constants its members agree on, whose hash is the swarm's id.

That of the swarm `open` is compiled in, and its bytes live in `protocol.signing`, because every
signature names the swarm. It is `bilateral`: pairwise claims, nobody else's promise. A `granted`
one names issuers, whose promises its members accept as credit, and the witnesses of all logs. A
`settled` one is a granted one that also says what a credit is worth in money.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Self

from ledger.cosigning import Witness, Witnesses
from ledger.errors import BadObject
from ledger.fields import SignedObject, Text, Uint, check_bytes, check_text
from ledger.notes import check_name
from protocol.canonical import Field
from protocol.errors import IntegrityError
from protocol.signing import OPEN_POLICY_FIELDS, check_public_key

BILATERAL, GRANTED, SETTLED = "bilateral", "granted", "settled"
MAX_NAMED = 64  # issuers, or witnesses
MAX_MICROS = 10**15
MAX_EPOCH_S = 366 * 86_400


def _check_mode(value: Any) -> None:
    if value not in (BILATERAL, GRANTED, SETTLED):
        raise BadObject(f"a swarm is {BILATERAL}, {GRANTED} or {SETTLED}, not {value!r}")


def _check_accounts(value: Any) -> None:
    if type(value) is not tuple or len(value) > MAX_NAMED or list(value) != sorted(set(value)):
        raise BadObject(f"expected at most {MAX_NAMED} accounts, each once, in order")
    for account in value:
        check_bytes(32)(account)


def _check_witnesses(value: Any) -> None:
    if type(value) is not tuple or len(value) > MAX_NAMED:
        raise BadObject(f"expected at most {MAX_NAMED} witnesses")
    try:
        for name, key in value:
            check_text(name)
            check_name(name)
            check_public_key(key)
    except (IntegrityError, ValueError, TypeError) as error:
        raise BadObject(f"a witness is a name and a key: {error}") from error
    if list(value) != sorted(value):
        raise BadObject("witnesses stand in the order of their names")


Mode = Annotated[str, _check_mode]
Accounts = Annotated[tuple[bytes, ...], _check_accounts]
Named = Annotated[tuple[tuple[str, bytes], ...], _check_witnesses]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(SignedObject):
    TYPE: ClassVar[str] = "mh/policy/1"

    name: Text
    mode: Mode
    assets: Accounts  # what counts as credit: each its issuer's promise
    issuers: Accounts
    witnesses: Named
    quorum_k: Uint
    epoch_s: Uint
    grace_epochs: Uint
    retain_epochs: Uint
    max_skew_ms: Uint
    audit_ppm: Uint
    holdback_epochs: Uint
    min_version: Uint
    currency: Text = ""  # ISO 4217, of what a credit is worth; this and the next in `settled` alone
    credit_micros: Uint = 0  # how much of it, in millionths

    def __post_init__(self) -> None:
        SignedObject.__post_init__(self)
        if self.assets != self.issuers:
            raise BadObject("an asset is named by its issuer: the two lists are one")
        if bool(self.issuers) == (self.mode == BILATERAL):
            raise BadObject(f"a {BILATERAL} swarm has no issuers, any other has some")
        is_code = len(self.currency) == 3 and self.currency.isascii() and self.currency.isupper()
        is_worth = is_code and self.currency.isalpha() and 0 < self.credit_micros < MAX_MICROS
        if is_worth != (self.mode == SETTLED) or bool(self.currency) != is_worth:
            raise BadObject(f"a {SETTLED} swarm says what a credit is worth, no other does")
        if not 0 < self.epoch_s <= MAX_EPOCH_S:
            raise BadObject(f"an epoch lasts from 1 to {MAX_EPOCH_S} s")
        self.quorum()

    def quorum(self) -> Witnesses:
        """Whose cosignatures make a log count."""
        known = tuple(Witness(name, key) for name, key in self.witnesses)
        try:
            return Witnesses(known, self.quorum_k)
        except IntegrityError as error:
            raise BadObject(str(error)) from error

    def to_fields(self) -> list[Field]:
        told = super(Policy, self).to_fields()
        return told if self.mode == SETTLED else told[:-2]

    @classmethod
    def from_fields(cls, values: Sequence[Any]) -> Self:
        if len(values) == len(fields(cls)) - 1:  # the version counted, the last two not
            policy = super(Policy, cls).from_fields([*values, "", 0])
        else:
            policy = super(Policy, cls).from_fields(values)
        if len(policy.to_fields()) != len(values):
            raise BadObject(f"a currency stands in the policy of a {SETTLED} swarm alone")
        return policy

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return tuple(tuple(each) if isinstance(each, list) else each for each in value)

    def epoch_of(self, time_ms: int) -> int:
        """The accounting epoch of a moment. Without witnesses the signers' clocks decide it."""
        return time_ms // (self.epoch_s * 1000)

    @classmethod
    def open_swarm(cls) -> Self:
        return cls.from_fields(OPEN_POLICY_FIELDS)


OPEN_POLICY = Policy.open_swarm()
