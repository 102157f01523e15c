"""Why no chain serves a request: which blocks nobody serves, and which constraint leaves them so.

In: who serves, and what is wanted. Out: an error for a person, with what to change; of one peer,
what rules it out. The constraint to name is one that rules out peers which hold the missing blocks:
by what the client asked for (region, group, price, peers, profile, adapter) before what the peers
are (leaving, too small).
"""

from collections import Counter
from collections.abc import Sequence

from protocol.announcements import Announcement
from protocol.constraints import why_relayed
from protocol.errors import SwarmIncomplete
from protocol.profile import rounds_rows
from scheduler.prices import ahead_of
from scheduler.routing import missing_blocks
from scheduler.wanted import Constraint, Wanted

IN_WORDS = {
    # Whoever says that it is there is told of first: to believe it asks for nothing else.
    Constraint.DOUBTED: "in region {regions}, as far as measurements go,",
    Constraint.REGION: "in region {regions}",
    Constraint.GROUP: "{group}",
    Constraint.DIRECT: "without a relay in between",
    Constraint.PRICE: "for {max_price} ncr per million or less",
    Constraint.AHEAD: "for {max_prepaid} ncr ahead or less",
    Constraint.AVOID: "whom you do not avoid",
    Constraint.QUARANTINE: "that is not in quarantine",
    Constraint.REQUIRE: "with the required {required}",
    Constraint.PROFILE: "in profile {profile}",
    Constraint.CONTEXT: "with room for {n_positions} positions",
    Constraint.STATE: "that takes new sessions",
}


def incomplete(
    announcements: Sequence[Announcement], wanted: Wanted, *, model: str = "", waits: bool = True
) -> SwarmIncomplete | None:
    """The refusal, or None when every block is served. waits: who asks can be told to wait."""
    missing = missing_blocks(announcements, wanted)
    if not missing:
        return None
    hosts = [peer for peer in announcements if peer.manifest == wanted.manifest]
    ruled_out = Counter(
        why
        for peer in hosts
        if (why := _chosen_constraint(peer, wanted)) is not None and _holds_any(peer, missing)
    )
    if not wanted.profile:  # nobody asked for one: see `_serving`
        del ruled_out[Constraint.PROFILE]
    absent = _absent(hosts, wanted)
    named = next((c for c in IN_WORDS if ruled_out[c]), None)
    if absent:
        named = Constraint.REQUIRE
    start, stop = missing[0]
    return SwarmIncomplete(
        missing,
        model=model,
        adapter=wanted.adapter,
        within=_within(named, wanted, absent) if named else "",
        constraint=named.value if named else "",
        hint=_relaxing(named, ruled_out[named], hosts, waits)
        if named and named is not Constraint.PROFILE
        else _serving(hosts, wanted, model, f"{start}:{stop}", waits),
    )


def in_words(constraint: Constraint, peer: Announcement, wanted: Wanted) -> str:
    """Why `peer` is ruled out, for a person."""
    match constraint:
        case Constraint.MODEL:
            return "it serves another model" if peer.span else "it serves no blocks yet"
        case Constraint.STATE:
            return f"it is {peer.measured.state} and takes no new sessions"
        case Constraint.CONTEXT:
            return f"its context is {peer.max_positions} positions"
        case Constraint.AVOID:
            return "it is to be avoided"
        case Constraint.QUARANTINE:
            return "it is in quarantine: manyhands ledger dispute list"
        case Constraint.ADAPTER:
            return f"it does not serve adapter {wanted.adapter}"
        case Constraint.PROFILE:
            return f"it runs {peer.profile}"
        case Constraint.REGION:
            return f"it is in region {peer.region}" if peer.region else "it names no region"
        case Constraint.DOUBTED:
            return f"measurements contradict its region {peer.region}"
        case Constraint.GROUP:
            group = peer.measured.group
            if group and group not in {each.name for each in wanted.limits.groups}:
                return f"it serves group {group} alone"
            names = " or ".join(each.name for each in wanted.limits.groups)
            return f"nothing shows that it is in group {names}"
        case Constraint.DIRECT:
            return why_relayed(peer)
        case Constraint.PRICE:
            assert peer.span is not None, "else it is ruled out by that"
            price = wanted.price_at(peer)
            return f"it asks {price.over(len(peer.span)):g} ncr per million"
        case Constraint.AHEAD:
            return f"it asks {ahead_of(peer.offer)} ncr ahead"
        case Constraint.REQUIRE:
            return "a required peer runs its blocks"


def _chosen_constraint(peer: Announcement, wanted: Wanted) -> Constraint | None:
    """What rules `peer` out; None too for one that this session met and lost."""
    why = wanted.rules_out(peer)
    is_lost = why is Constraint.AVOID and peer.peer_id not in wanted.limits.avoid
    return None if is_lost else why


def _holds_any(peer: Announcement, runs: Sequence[tuple[int, int]]) -> bool:
    span = peer.span
    return span is not None and any(span.start < stop and start < span.stop for start, stop in runs)


def _absent(hosts: Sequence[Announcement], wanted: Wanted) -> str:
    """A required peer that cannot serve, with the reason."""
    known = {peer.peer_id: peer for peer in hosts}
    for peer_id in wanted.limits.require:
        if (peer := known.get(peer_id)) is None:
            return f"{peer_id} (it is not among those who serve this model)"
        if (why := wanted.rules_out(peer)) is not None:
            return f"{peer_id} ({in_words(why, peer, wanted)})"
    return ""


def _within(named: Constraint, wanted: Wanted, absent: str) -> str:
    limits = wanted.limits
    names = " or ".join(group.name for group in limits.groups)
    return IN_WORDS[named].format(
        regions=" or ".join(limits.regions),
        group=f"in group {names}" if names else "outside private groups",
        max_price=limits.max_price,
        max_prepaid=limits.max_prepaid,
        required=absent,
        n_positions=wanted.n_positions,
        profile=wanted.profile,
    )


def _relaxing(named: Constraint, n_others: int, hosts: Sequence[Announcement], waits: bool) -> str:
    """What would let somebody serve the blocks."""
    match named:
        case Constraint.STATE:
            how = ", or --wait" if waits else ""
            return f"who serves them is leaving or moving: ask again{how}"
        case Constraint.CONTEXT:
            most = max((peer.max_positions for peer in hosts), default=0)
            return f"ask for fewer tokens: the largest context served is {most}"
        case Constraint.REQUIRE:
            return "manyhands peers shows who serves; leave out --require"
        case Constraint.AHEAD:
            ahead = min(ahead_of(peer.offer) for peer in hosts if peer.offer)
            return f"who asks least asks {ahead}: --max-prepaid allows it"
        case Constraint.DOUBTED:
            others = "1 peer says" if n_others == 1 else f"{n_others} peers say"
            return (
                f"{others} so, and others measured that this cannot be: manyhands peers shows it; "
                "--believe-regions takes their word, else change --region"
            )
        case Constraint.QUARANTINE:
            others = "1 peer is" if n_others == 1 else f"{n_others} peers are"
            return f"{others} at fault: manyhands ledger dispute list; --no-quarantine uses them"
        case _:
            others = "1 other peer does" if n_others == 1 else f"{n_others} other peers do"
            return f"{others}: change --{named.value} or leave it out"


def _serving(
    hosts: Sequence[Announcement], wanted: Wanted, model: str, run: str, waits: bool
) -> str:
    """Whom to ask instead, or what to start."""
    if wanted.adapter:
        here = sorted({name for peer in hosts for name in peer.adapters})
        return (
            "load it on every node: manyhands adapters load NAME=DIR; "
            f"adapters served now: {', '.join(here)[:200] or 'none'}"
        )
    others = {peer.profile for peer in hosts} - {wanted.profile}
    if not wanted.profile and (rounding := sorted(filter(rounds_rows, others))):
        return f"who rounds rows on the wire is asked by name: --profile {rounding[0]}"
    start = f"manyhands serve {model or 'MODEL'} --span {run}"
    hint = f"start a node for them: {start}"
    if waits:
        hint += "; or ask again with --wait, which waits until somebody does"
    if wanted.profile and others:
        hint += f"; asked for {wanted.profile}, others run {', '.join(sorted(others))}"
    return hint
