"""Everything that can go wrong between two peers, as a tree that says whose fault it is.

ManyhandsError
    ConfigError              ours: the operator must act (exit 3)
        InsecureHome         a key or home that others can read
        WrongPassphrase      it does not open an encrypted key
        HomeInUse            another process holds this home
        LicenceNotAccepted   a model's licence asks for a person's yes
    UsageError               the caller asked for something that cannot be (exit 2)
        NoSuchModel          a name that nobody asked knows
        ContextExceeded      prompt and answer do not fit the model's context
        BadRows              rows that hold NaN or infinity: whoever sent them is to blame
        BadGrammar           what an answer has to follow makes no sense, or is too large
            BadSchema        the same of JSON
    OutOfMemory              this machine lacks memory or disk for what was asked (exit 7)
    IntegrityError           bytes do not match their hash, signature or rule (exit 8)
        BadSignature         a signature does not hold
        BadModel             a checkpoint that is missing, corrupt or of another kind
        BadAdapter           the same of an adapter, or one made for another base
        BadResult            sound rows became NaN or infinity in the blocks of whoever says so
    HubUnreachable           no answer from a hub, or it keeps stalling or cutting (exit 4)
    HubRefused               a hub denies what was asked: log in, or accept its terms (exit 6)
    PeerError                theirs: route around them, lower their score
        PeerUnreachable      no connection, or it dropped (exit 4)
        PeerBusy             an honest refusal: no room for now (exit 75)
        PeerRefused          an honest refusal that will not change by waiting (exit 6)
            NotAMember       of its swarm, or so it says: it tells strangers no more
            MembershipEnded  revoked, denied or expired, perhaps in the middle of an answer
            NotPermitted     a model that the swarm's rules keep from being served or used
            NotFunded        no credit behind what was asked, or not enough of it
                LogNeeded    it may be there: whoever refuses lacks the payer's spend log
                CreditUnknown  the log is there, and whoever refuses knows of too little credit
            NotAccepted      a model's licence, or the swarm's terms, that nobody here accepted
            ConstraintBroken a session's client does not want that peer next to its rows
            InDebt           the client owes a node more than it lends: settle first
        VersionMismatch      the two sides speak different protocols or serve different models
        OfferBroken          its terms ask for more than its own offer that is in force
        PeerMisbehaved       provable or plain nonsense: keep the evidence, count it
    ChainBroken              a session lost hops; it may replay on another route
    SwarmIncomplete          nobody serves some blocks (exit 5); names them
    SessionTimeout           the caller's deadline passed (exit 75)
    NoQuorum                 too few witnesses signed a log; `missing` names who did not (exit 75)
    BudgetExceeded           it would cost more than the caller lets it (exit 11)

The class tells the caller what to do, the message what happened, `hint` the command that mends it.
`exit_code` is what the command line ends with (see docs/cli.md).
"""

from collections.abc import Sequence
from typing import ClassVar


class ManyhandsError(Exception):
    """The root. `hint`, when there is one, names the command or step that fixes it."""

    exit_code: ClassVar[int] = 1
    code: str = "unexpected"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(ManyhandsError):
    exit_code, code = 3, "config"


class InsecureHome(ConfigError):
    code = "insecure_home"


class WrongPassphrase(ConfigError):
    code = "wrong_passphrase"


class HomeInUse(ConfigError):
    code = "home_in_use"


class LicenceNotAccepted(ConfigError):
    code = "licence"


class UsageError(ManyhandsError):
    exit_code, code = 2, "usage"


class NoSuchModel(UsageError):
    code = "no_such_model"


class ContextExceeded(UsageError):
    code = "context_length_exceeded"


class BadRows(UsageError):
    code = "bad_rows"


class BadGrammar(UsageError):
    code = "invalid_grammar"


class BadSchema(BadGrammar):
    code = "invalid_json_schema"


class OutOfMemory(ManyhandsError):
    exit_code, code = 7, "out_of_memory"


class IntegrityError(ManyhandsError):
    exit_code, code = 8, "integrity"


class BadSignature(IntegrityError):
    code = "bad_signature"


class BadModel(IntegrityError):
    code = "bad_model"


class BadAdapter(IntegrityError):
    code = "bad_adapter"


class BadResult(IntegrityError):
    code = "bad_result"


class HubUnreachable(ManyhandsError):
    exit_code, code = 4, "hub_unreachable"


class HubRefused(ManyhandsError):
    exit_code, code = 6, "hub_refused"


class PeerError(ManyhandsError):
    """The other side failed us; `peer_id` says who."""

    code = "peer"

    def __init__(self, peer_id: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"{peer_id}: {reason}" if peer_id else reason, hint=hint)
        self.peer_id = peer_id
        self.reason = reason


class PeerUnreachable(PeerError):
    exit_code, code = 4, "peer_unreachable"


class PeerBusy(PeerError):
    """`queue_depth` is how many sessions the refuser serves or holds reserved."""

    exit_code, code = 75, "peer_busy"

    def __init__(self, peer_id: str, reason: str, *, queue_depth: int = 0, hint: str = "") -> None:
        super().__init__(peer_id, reason, hint=hint)
        self.queue_depth = queue_depth


class PeerRefused(PeerError):
    exit_code, code = 6, "peer_refused"


class NotAMember(PeerRefused):
    code = "not_a_member"


class MembershipEnded(PeerRefused):
    code = "membership_ended"


class NotPermitted(PeerRefused):
    code = "not_permitted"


class NotAccepted(PeerRefused):
    code = "not_accepted"


class NotFunded(PeerRefused):
    code = "not_funded"


class LogNeeded(NotFunded):
    """Whoever refuses knows `size` entries of the payer's spend log, and needs those after them."""

    code = "spend_log_needed"

    def __init__(self, peer_id: str, reason: str, *, size: int = 0, hint: str = "") -> None:
        super().__init__(peer_id, reason, hint=hint)
        self.size = size


class CreditUnknown(NotFunded):
    """The allotment is beyond the credit that whoever refuses has heard of so far."""

    code = "credit_unknown"


class ConstraintBroken(PeerRefused):
    """`peer_id` is outside what the client asks for; `constraint` says which part of it."""

    code = "constraint_broken"

    def __init__(self, peer_id: str, reason: str, *, constraint: str = "", hint: str = "") -> None:
        super().__init__(peer_id, reason, hint=hint)
        self.constraint = constraint


class InDebt(PeerRefused):
    """In ncr: what the client owes there over all its sessions, and how much it is lent."""

    code = "in_debt"

    def __init__(
        self, peer_id: str, reason: str, *, owed_ncr: int = 0, limit_ncr: int = 0, hint: str = ""
    ) -> None:
        super().__init__(peer_id, reason, hint=hint)
        self.owed_ncr, self.limit_ncr = owed_ncr, limit_ncr


class VersionMismatch(PeerError):
    exit_code, code = 6, "version_mismatch"


class OfferBroken(PeerError):
    code = "offer_broken"


class PeerMisbehaved(PeerError):
    exit_code, code = 8, "peer_misbehaved"


class ChainBroken(ManyhandsError):
    """Some hops are lost; `causes` names each of them."""

    exit_code, code = 4, "chain_broken"

    def __init__(self, causes: Sequence[Exception]) -> None:
        super().__init__("; ".join(str(cause) for cause in causes) or "the chain broke")
        self.causes = tuple(causes)


class SwarmIncomplete(ManyhandsError):
    """No peer serves blocks `missing`, a list of half-open runs `(start, stop)`.

    `constraint` names what leaves them so, where somebody would serve them without it.
    """

    exit_code, code = 5, "swarm_incomplete"

    def __init__(
        self,
        missing: Sequence[tuple[int, int]],
        *,
        model: str = "",
        adapter: str = "",
        within: str = "",
        constraint: str = "",
        hint: str = "",
    ) -> None:
        """within: the constraint, as words that follow `nobody`."""
        runs = ", ".join(f"{start}:{stop}" for start, stop in missing)
        of, under = f" of {model}" if model else "", f" with adapter {adapter}" if adapter else ""
        whom = f" {within}" if within else ""
        super().__init__(f"nobody{whom} serves blocks {runs}{of}{under}", hint=hint)
        self.missing = tuple(missing)
        self.constraint = constraint


class SessionTimeout(ManyhandsError):
    exit_code, code = 75, "timeout"


class BudgetExceeded(ManyhandsError):
    exit_code, code = 11, "budget_exceeded"


class NoQuorum(ManyhandsError):
    """Try again: what is to be signed stays as it is until enough witnesses answer."""

    exit_code, code = 75, "no_quorum"

    def __init__(self, message: str, missing: tuple[str, ...] = (), *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.missing = missing
