"""Why a peer is not usable from here: every reason that anything here would have. Pure.

In: what is known of the peer: its announcement, what came of dialling it just now, what its swarm
and this home's clients say of it. Out: reasons, each from one source, with what mends it where
somebody can. What tells routing, routing says itself: see `scheduler/wanted.py`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from manyhands.condition import SKEWED_S, SLOW, Seen, condition_of
from protocol.address import Address
from protocol.announcements import Announcement
from protocol.errors import (
    ManyhandsError,
    MembershipEnded,
    PeerError,
    PeerMisbehaved,
    VersionMismatch,
)
from protocol.identity import PeerId
from protocol.load import Load
from protocol.membership.certificates import Verdict as Ruled
from protocol.reachability import Verdict as Reached
from scheduler.refusal import in_words
from scheduler.wanted import Wanted

if TYPE_CHECKING:
    from protocol.bans import Ban
    from protocol.membership.state import SwarmState
    from scheduler.peer_record import Standing

GOOD, BAD = "ok", "fail"


@dataclass(frozen=True, slots=True)
class Reason:
    """source: who says so. A bad one keeps the peer from being used; `fix` mends it, if anything
    that we know of does."""

    source: str
    verdict: str
    text: str
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """All that is known here of one peer."""

    peer_id: PeerId
    ours: Mapping[PeerId, str]  # our own ids, and what each is
    announced: Announcement | None
    asked: int  # of how many peers the table was asked
    unasked: ManyhandsError | None = None  # why nobody could be
    seen: Seen
    dialled: Mapping[Address, float | ManyhandsError]  # milliseconds, or why not
    load: Load | None  # what it answered just now
    state: "SwarmState | None"
    standing: "Standing | None"
    risk_ms: float
    complaints: tuple[PeerId, ...]  # who said lately that it cannot reach it
    now_ms: int
    ban: "Ban | None" = None  # by the node of this home
    held: str = ""  # why it serves nobody, by its own word

    @property
    def is_reached(self) -> bool:
        return any(isinstance(came, float) for came in self.dialled.values())


def reasons(known: Known, wanted: Wanted | None) -> list[Reason]:
    """Those that keep it from being used first; then what is well.

    wanted: what a session would ask for; None: all that the peer itself could serve.
    """
    found = [
        *_self(known),
        *_membership(known),
        *_announced(known),
        *_governance(known),
        *_banned(known),
        *_dialled(known),
        *_constraints(known, wanted),
        *_health(known),
        *_record(known),
    ]
    return sorted(found, key=lambda reason: reason.verdict == GOOD)


def is_usable(found: Iterable[Reason]) -> bool:
    return all(reason.verdict == GOOD for reason in found)


def _self(known: Known) -> Iterator[Reason]:
    if known.ours.get(known.peer_id) == "client":
        text = "this is the client of this home, which serves nobody"
        yield Reason("identity", BAD, text, "ask about the node: manyhands identity")


def _announced(known: Known) -> Iterator[Reason]:
    peer = known.announced
    if peer is None:
        text = f"none of the {known.asked} peers that were asked knows an announcement of it"
        fix = "have it join the same swarm, by one of these: manyhands status"
        if not known.asked:
            text = f"nobody could be asked: {known.unasked or 'nobody is known'}"
            fix = known.unasked.hint if known.unasked else "name somebody to ask: --join ADDR"
        yield Reason("directory", BAD, text, fix)
        return
    told = f"announced {known.seen.age_s:.0f} s ago: blocks {peer.span} of {peer.model}"
    yield Reason("directory", GOOD, told)
    if not peer.addresses:
        fix = "give it one that others reach: manyhands serve … --announce HOST:PORT"
        yield Reason("directory", BAD, "it names no address", fix)
    if peer.reach.verdict in (Reached.NAT, Reached.FIREWALLED):
        text = f"by its own word nobody dials it: {peer.reach.verdict}"
        yield Reason("reachability", BAD, text, "there: manyhands doctor --only reachability")


def _membership(known: Known) -> Iterator[Reason]:
    """What the swarm's members have ruled about it, revocations and denials included."""
    if known.state is None:
        return
    credential = known.announced.membership if known.announced else b""
    try:
        roles = known.state.roles(known.peer_id, credential, known.now_ms)
    except ManyhandsError as error:
        ended = isinstance(error, MembershipEnded)
        reason = error.reason if isinstance(error, PeerError) else str(error)
        # Without an announcement it shows no certificate: only what admins ruled is known then.
        if known.announced is None and not ended:
            ended = known.peer_id in known.state.ruled(Ruled.REVOKED)
            reason = "its membership was revoked; an invite made later brings it back"
        if ended or known.announced is not None:
            yield Reason("membership", BAD, reason, "manyhands swarm allow PEER, or a new invite")
        return
    may = ", ".join(sorted(roles)) or "nothing"
    if "provide" not in roles:
        text = f"in swarm {known.state.policy.name} it may {may}, not provide"
        yield Reason("membership", BAD, text, "manyhands swarm invite --role provide")
    else:
        yield Reason("membership", GOOD, f"in swarm {known.state.policy.name} it may {may}")


def _governance(known: Known) -> Iterator[Reason]:
    """What the swarm says of the model it serves, here and as it has heard itself."""
    peer, refused = known.announced, ""
    if peer is not None and known.state is not None:
        judged = known.state.governance.judge(peer.manifest, peer.model, known.now_ms)
        refused = judged.refused
        if refused:
            text = f"{peer.model} is not to be served: {refused}"
            yield Reason("governance", BAD, text, judged.hint.replace("MODEL", peer.model))
        for flag in judged.flags:
            yield Reason("governance", GOOD, f"{peer.model}: {flag}")
    if known.held and known.held != refused:
        fix = "there: manyhands models releases, and manyhands models advisories"
        yield Reason("governance", BAD, f"it is held, by its own word: {known.held}", fix)


def _banned(known: Known) -> Iterator[Reason]:
    """Who bans us says so when it is dialled; this is whom we do not hear."""
    ban = known.ban
    if ban is not None and ban.until_ms > known.now_ms:
        left_min = (ban.until_ms - known.now_ms) / 60_000
        text = f"the node of this home does not hear it for {left_min:.0f} more minutes: {ban.why}"
        yield Reason("ban", BAD, text, f"manyhands peers unban {known.peer_id}")


def _dialled(known: Known) -> Iterator[Reason]:
    for address, came in known.dialled.items():
        if isinstance(came, float):
            yield Reason("dial", GOOD, f"{address.target} answers in {came:.1f} ms")
            continue
        text = came.reason if isinstance(came, PeerError) else str(came)
        text = text if address.target in text else f"{address.target}: {text}"
        # One way to it is enough; another protocol or identity is so on every way.
        source = "version" if isinstance(came, VersionMismatch) else "dial"
        is_final = isinstance(came, VersionMismatch | PeerMisbehaved) or not known.is_reached
        fix = came.hint or "there: manyhands doctor; here: manyhands doctor --only proxy"
        yield Reason(source, BAD if is_final else GOOD, text, fix if is_final else "")


def _constraints(known: Known, wanted: Wanted | None) -> Iterator[Reason]:
    """What routing would hold against it, by its announcement and by what it just answered."""
    peer = known.announced
    if peer is None or peer.span is None:
        return
    if known.load is not None:
        peer = known.load.brings_up_to_date(peer)
    if wanted is None:
        wanted = Wanted(manifest=peer.manifest, n_blocks=peer.n_blocks, n_positions=1)
    if (constraint := wanted.rules_out(peer)) is not None:
        text = in_words(constraint, peer, wanted)
        yield Reason("constraints", BAD, f"{constraint.value}: {text}")
    elif peer.measured.position_bytes * wanted.n_positions > peer.kv_free_bytes:
        text = f"its KV room does not hold {wanted.n_positions} positions"
        yield Reason("constraints", BAD, text, "ask for a shorter answer, or wait")
    else:
        yield Reason("constraints", GOOD, "nothing that was asked for rules it out")


def _health(known: Known) -> Iterator[Reason]:
    if known.announced is None:
        return
    # Whether it answers was said already, address by address.
    condition = condition_of(known.announced, replace(known.seen, why_not=""))
    for why in condition.why:
        is_bad = condition.state not in ("serving", "slow")
        yield Reason("health", BAD if is_bad else GOOD, why)
    if abs(known.seen.skew_s) >= SKEWED_S * 10:
        fix = "there: manyhands doctor --only clock"
        yield Reason("clock", BAD, f"its clock is {known.seen.skew_s:.0f} s ahead of ours", fix)


def _record(known: Known) -> Iterator[Reason]:
    """What this home's clients saw of it."""
    standing = known.standing
    if standing is not None and standing.gone_since is not None:
        sequence = known.announced.sequence if known.announced else 0
        if sequence <= standing.gone_since:
            text = "clients of this home lost it, and it has not announced itself since"
            yield Reason("record", BAD, text, "wait for its next announcement")
    if known.risk_ms > 0:
        failures = f", for {standing.failures:.1f} failures lately" if standing else ""
        text = f"routes through it count {known.risk_ms:.1f} ms a token more{failures}"
        yield Reason("record", GOOD, text)
    if known.complaints:
        names = ", ".join(known.complaints[:3])
        yield Reason("record", GOOD, f"these said lately that they cannot reach it: {names}")
    if (slowdown := known.seen.slowdown or 1.0) >= SLOW:
        yield Reason("record", GOOD, f"it took {slowdown:.1f} times as long as it announces")
