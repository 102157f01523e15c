"""Who answers a request: the swarm or an upstream, by rules that can be read and explained.

In: a policy, the facts of one request and of this moment. Out: a decision: whom to ask, whom after
that one fails, which rule said so, and for every rule looked at whether it held and why. Pure: the
same facts give the same decision, and nothing is asked of a model. The reasons hold numbers and the
operator's own words, never those of a prompt.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from manyhands.gateway.faults import ApiError
from manyhands.gateway.grants import DataClass
from manyhands.gateway.patterns import Pattern
from manyhands.gateway.policy import SWARM, UPSTREAM, Auto, Policy, Rule
from manyhands.gateway.residency import why_not
from scheduler.wanted import ANY_PEER, Limits

FALLS_BACK = {
    *("overloaded", "swarm_incomplete", "swarm_unreachable", "starting", "peer_failed"),
    *("verification_failed", "timeout", "upstream_failed", "internal_error"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """n_answer: tokens that may be answered. first_token_ms: lately, as this gateway saw it.
    unable: the code of what the swarm's model cannot do of it. not_ready: what the swarm lacks.
    has_ids: some of it is token ids, of which rules about text know nothing. limits: of key, class
    and request, which bind upstreams as they bind peers."""

    n_prompt: int = 0
    n_answer: int = 0
    tools: bool = False
    structured: bool = False
    text: str = ""
    has_ids: bool = False
    first_token_ms: float = 0.0
    running: int = 0
    unable: str = ""
    not_ready: str = ""
    data: DataClass = DataClass.PUBLIC
    limits: Limits = ANY_PEER
    key: str = ""
    tier: str = ""  # as the caller says
    wants_vectors: bool = False


@dataclass(frozen=True, slots=True)
class Looked:
    """One rule: whether it held, and the condition that decided that."""

    rule: str
    holds: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """targets: whom to ask, in order: `swarm`, or an upstream's name. failed: what those before
    said."""

    rule: str
    why: str
    targets: tuple[str, ...]
    looked: tuple[Looked, ...] = ()
    failed: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        return self.targets[0]

    @property
    def tier(self) -> str:
        return SWARM if self.target == SWARM else UPSTREAM

    @property
    def reason(self) -> str:
        """For counts: the name of its rule, with `-fallback` where it was not the first choice."""
        return f"{self.rule}-fallback" if self.failed else self.rule

    def after(self, code: str) -> "Decision | None":
        """The same, when whom it chose has failed; None: there is nobody else, or no use."""
        rest = self.targets[1:]
        if not rest or code not in FALLS_BACK:
            return None
        return replace(self, targets=rest, failed=(*self.failed, f"{self.target}: {code}"))

    def in_words(self) -> str:
        """For a header."""
        after = f"; after {', '.join(self.failed)}" if self.failed else ""
        return f"{self.target}; rule {self.rule}: {self.why}{after}"

    def to_json(self) -> dict[str, Any]:
        return {
            "tier": self.tier,
            "target": self.target,
            "rule": self.rule,
            "why": self.why,
            "then": list(self.targets[1:]),
            "failed": list(self.failed),
            "rules": [
                {"rule": each.rule, "holds": each.holds, "why": each.why} for each in self.looked
            ],
        }


def decide(policy: Policy, facts: Facts) -> Decision:
    """
    Raises:
        ApiError: data_residency_violation, where the caller asks for what its data may not have.
    """
    auto = policy.auto
    assert auto is not None
    refusing = {
        name: why_not(policy.upstreams[name], facts.data, facts.limits)
        or ("" if policy.upstreams[name].embeddings or not facts.wants_vectors else "embeddings")
        for name in auto.upstreams
    }
    allowed = [name for name, why in refusing.items() if not why]
    if facts.tier:
        return _told(facts, auto, refusing)
    looked = []
    for rule in auto.rules:
        looked.append(seen := look(rule, facts))
        if not seen.holds:
            continue
        if rule.then == SWARM:
            return Decision(
                rule=rule.name,
                why=seen.why,
                targets=_swarm_first(auto, allowed),
                looked=tuple(looked),
            )
        wanted = allowed if rule.then == UPSTREAM else [n for n in allowed if n == rule.then]
        if not wanted:
            named = refusing.get(rule.then) or ", ".join(dict.fromkeys(refusing.values()))
            looked[-1] = Looked(rule.name, False, f"{rule.then} takes no {named}")
            continue
        rest = [name for name in allowed if name not in wanted]
        targets = (*wanted, *((*rest, *_swarm_last(facts)) if auto.fall_back else ()))
        return Decision(rule=rule.name, why=seen.why, targets=targets, looked=tuple(looked))
    return Decision(
        rule="default",
        why="no rule held" if auto.rules else "there are no rules",
        targets=_swarm_first(auto, allowed),
        looked=tuple(looked),
    )


def look(rule: Rule, facts: Facts) -> Looked:
    """Whether every condition of a rule holds; why is the first that does not, or all of them.

    What cannot be looked at holds where that keeps the request on the swarm.
    """
    reasons = []
    for name, value in rule.conditions.items():
        holds, why = CONDITIONS[name](value, facts)
        if not holds and not (holds is None and rule.then == SWARM):
            return Looked(rule.name, False, why)
        reasons.append(why)
    return Looked(rule.name, True, ", ".join(reasons))


def _told(facts: Facts, auto: Auto, refusing: Mapping[str, str]) -> Decision:
    if facts.tier == SWARM:
        return Decision(rule="request", why="the caller says swarm", targets=(SWARM,))
    allowed = [name for name, why in refusing.items() if not why]
    if not allowed:
        named = " or ".join(dict.fromkeys(refusing.values()))
        message = f"rule upstreams: no upstream takes {named}"
        raise ApiError("data_residency_violation", message, param="manyhands.tier")
    targets = tuple(allowed if auto.fall_back else allowed[:1])
    return Decision(rule="request", why="the caller says upstream", targets=targets)


def _swarm_first(auto: Auto, allowed: list[str]) -> tuple[str, ...]:
    return (SWARM, *(allowed if auto.fall_back else ()))


def _swarm_last(facts: Facts) -> tuple[str, ...]:
    return () if facts.unable else (SWARM,)


def _least(what: str, got: Callable[[Facts], float]) -> Callable[[Any, Facts], tuple[bool, str]]:
    def look(least: Any, facts: Facts) -> tuple[bool, str]:
        amount, holds = got(facts), got(facts) >= least
        return holds, f"{what} {amount:.0f} {'>=' if holds else '<'} {least}"

    return look


def _is(
    yes: str, no: str, got: Callable[[Facts], object]
) -> Callable[[Any, Facts], tuple[bool, str]]:
    def look(wanted: Any, facts: Facts) -> tuple[bool, str]:
        return bool(got(facts)) is wanted, yes if got(facts) else no

    return look


UNREAD = "token ids are no text to look at"


def _keywords(words: Any, facts: Facts) -> tuple[bool | None, str]:
    text = facts.text.casefold()
    found = next((n for n, word in enumerate(words) if word.casefold() in text), None)
    if found is not None:
        return True, f"keyword {found + 1} of its list"
    return (None, UNREAD) if facts.has_ids else (False, "no keyword")


def _pattern(pattern: Any, facts: Facts) -> tuple[bool | None, str]:
    holds = compiled(pattern).is_in(facts.text)
    if holds is None:
        return None, "its pattern takes too much to look for in this text"
    if holds:
        return True, "its pattern is there"
    return (None, UNREAD) if facts.has_ids else (False, "its pattern is not there")


@lru_cache(maxsize=1024)  # a policy has up to 256 rules
def compiled(pattern: str) -> Pattern:
    return Pattern.of(pattern)


def _keys(names: Any, facts: Facts) -> tuple[bool, str]:
    holds = facts.key in names
    return holds, "its keys" if holds else "another key"


CONDITIONS: dict[str, Callable[[Any, Facts], tuple[bool | None, str]]] = {
    "prompt_tokens": _least("prompt tokens", lambda facts: facts.n_prompt),
    "answer_tokens": _least("answer tokens", lambda facts: facts.n_answer),
    "tools": _is("tools are offered", "no tools are offered", lambda facts: facts.tools),
    "structured": _is("a format is asked for", "no format is asked for", lambda f: f.structured),
    "keywords": _keywords,
    "pattern": _pattern,
    "first_token_ms": _least("first token ms", lambda facts: facts.first_token_ms),
    "running": _least("running", lambda facts: facts.running),
    "unable": _is(
        "the swarm's model is not able to", "the swarm's model is able to", lambda f: f.unable
    ),
    "not_ready": _is("the swarm is not ready", "the swarm is ready", lambda f: f.not_ready),
    "keys": _keys,
}
