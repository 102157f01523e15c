"""Policies on paper: what a file may say, and what follows from it for a request."""

import asyncio
import json
import random
import tomllib
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.gateway.asked import ChatAsked, Extension
from manyhands.gateway.deciding import Decision, Facts, decide
from manyhands.gateway.faults import ApiError
from manyhands.gateway.grants import Caller, DataClass, Grant
from manyhands.gateway.pace import Pace
from manyhands.gateway.patterns import MAX_BYTES, Pattern
from manyhands.gateway.policy import Policy, Upstream
from manyhands.gateway.relayed import Passing
from manyhands.gateway.residency import limits_of
from manyhands.gateway.upstream import Used, _body, _events
from protocol.constraints import Group
from protocol.errors import ConfigError
from scheduler.request import Token
from scheduler.wanted import Limits
from tests.announcing import peer_of
from tests.gateway.live import events

FILE = """
[classes.restricted]
groups = ["lab"]
[classes.internal]
regions = ["eu"]

[upstreams.big]
url = "https://api.example.com/v1"
model = "large"
key_env = "BIG_KEY"
[upstreams.inner]
url = "http://127.0.0.1:9000/v1"
model = "medium"
region = "eu-west"
classes = ["public", "internal"]

[auto]
upstreams = ["big", "inner"]
[[auto.rules]]
name = "greetings"
keywords = ["hello", "thanks"]
answer_tokens = 0
then = "swarm"
[[auto.rules]]
name = "long"
prompt_tokens = 1000
then = "upstream"
[[auto.rules]]
name = "proofs"
pattern = "(prove|derive).*theorem"
then = "big"
[[auto.rules]]
name = "busy"
first_token_ms = 2000
then = "inner"
"""
KEYS = {"BIG_KEY": "sk"}
NAMES = ["choices", "delta", "message", "usage", "error", "content", "index"]


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(FILE)
    return Policy.read(path, KEYS)


def route(policy: Policy, **facts: object) -> tuple[str, tuple[str, ...]]:
    decision = decide(policy, Facts(**facts))  # type: ignore[arg-type]
    return decision.rule, decision.targets


def test_the_first_rule_that_holds_decides_and_the_rest_follow_when_it_fails(policy):
    assert route(policy, text="Thanks!", n_prompt=5000) == ("greetings", ("swarm", "big", "inner"))
    assert route(policy, n_prompt=1000) == ("long", ("big", "inner", "swarm"))
    assert route(policy, n_prompt=999) == ("default", ("swarm", "big", "inner"))
    assert route(policy, text="Derive\nthe THEOREM") == ("proofs", ("big", "inner", "swarm"))
    assert route(policy, first_token_ms=2500.0) == ("busy", ("inner", "big", "swarm"))
    assert route(policy, n_prompt=2000, unable="x") == ("long", ("big", "inner"))


def test_a_class_of_data_goes_only_to_upstreams_that_take_it(policy):
    internal = {"data": DataClass.INTERNAL}
    assert route(policy, n_prompt=1000, **internal) == ("long", ("inner", "swarm"))
    assert route(policy, text="prove theorem", **internal) == ("default", ("swarm", "inner"))
    assert route(policy, n_prompt=9999, data=DataClass.RESTRICTED) == ("default", ("swarm",))
    assert route(policy, tier="upstream") == ("request", ("big", "inner"))
    assert route(policy, tier="swarm", n_prompt=9999) == ("request", ("swarm",))
    with pytest.raises(ApiError, match="rule upstreams"):
        route(policy, tier="upstream", data=DataClass.RESTRICTED)


@cache
def written() -> Policy:
    return Policy.model_validate(tomllib.loads(FILE))


LIMITS = st.builds(
    Limits,
    regions=st.sampled_from([(), (), ("eu",), ("eu-west",), ("eu-north", "us")]),
    groups=st.sampled_from([(), (), (Group("lab"),)]),
    max_price=st.none() | st.just(0),
    require=st.sampled_from([(), (), (peer_of(1),)]),
    avoid=st.sampled_from([(), (peer_of(2),)]),
    direct=st.booleans(),
)


@given(
    st.builds(
        Facts,
        n_prompt=st.integers(0, 3000),
        text=st.text(max_size=20) | st.sampled_from(["hello", "prove the theorem"]),
        first_token_ms=st.floats(0, 5000),
        data=st.sampled_from(DataClass),
        limits=LIMITS,
        unable=st.sampled_from(["", "context_length_exceeded"]),
        tier=st.sampled_from(["", "swarm", "upstream"]),
    )
)
@settings(max_examples=80, deadline=None)
def test_no_facts_send_data_where_its_class_or_limits_forbid_and_every_decision_is_explained(facts):
    policy = written()

    limits = facts.limits
    of_peers = limits.groups or limits.require or limits.max_price is not None or limits.direct
    may = {name for name, each in policy.upstreams.items() if each.takes(facts.data)}
    if limits.regions and not {"eu", "eu-west"} & set(limits.regions):
        may = set()
    may = set() if of_peers else may - ({"big"} if limits.regions else set())
    if facts.tier == "upstream" and not may:
        with pytest.raises(ApiError, match="rule upstreams"):
            decide(policy, facts)
        return

    decision = decide(policy, facts)

    assert set(decision.targets) <= {"swarm"} | may
    assert len(set(decision.targets)) == len(decision.targets) > 0
    assert decision == decide(policy, facts)
    assert decision.rule in decision.in_words()
    if facts.data is DataClass.RESTRICTED:
        assert decision.targets == ("swarm",)


def test_a_hundred_labelled_prompts_go_where_their_label_says(policy):
    hard = [f"Please derive step {n} of the theorem on page {n}" for n in range(50)]
    routine = [f"What is the opening time of shop {n}, please?" for n in range(50)]

    routed = {text: decide(policy, Facts(text=text)).tier for text in (*hard, *routine)}

    assert [routed[text] for text in hard] == ["upstream"] * 50
    assert [routed[text] for text in routine] == ["swarm"] * 50


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (("groups", "grops"), "classes.restricted.grops"),
        (('groups = ["lab"]', "groups = []"), "no trust group"),
        (('groups = ["lab"]', 'groups = ["lab=me"]'), "lab"),
        (("https://api.example.com", "http://api.example.com"), "https alone"),
        (("https://api.example.com", "https://me:pw@api.example.com"), "no password"),
        (("https://api", "ftp://api"), "an URL looks like"),
        (('["public", "internal"]', '["restricted"]'), "classes"),
        (('upstreams = ["big", "inner"]', 'upstreams = ["bigger"]'), "bigger"),
        (('then = "big"', 'then = "biggest"'), "nowhere"),
        (('name = "long"', 'name = "proofs"'), "two rules"),
        (("prompt_tokens = 1000", ""), "at least one condition"),
        (("(prove|derive)", "(prove"), "not a pattern"),
        (("prompt_tokens = 1000", "prompt_tokens = -1"), "prompt_tokens"),
        (("[auto]", "[auto"), "not TOML"),
        (("BIG_KEY", "OTHER_KEY"), "not in the environment"),
    ],
)
def test_a_mistake_in_the_file_is_said_with_its_place(tmp_path, change, word):
    path = tmp_path / "policy.toml"
    assert change[0] in FILE
    path.write_text(FILE.replace(*change, 1))

    with pytest.raises(ConfigError) as refused:
        Policy.read(path, KEYS)

    assert word in str(refused.value)
    assert refused.value.hint


def test_a_pattern_takes_no_longer_for_a_text_that_was_made_for_it():
    nasty = Pattern.of("(a+)+b")

    assert not nasty.is_in("a" * 5 * MAX_BYTES)  # a backtracking engine would not return
    assert nasty.is_in("x" * 5 * MAX_BYTES + "AAB")


@pytest.mark.parametrize("tail", ["", "!", "!!", "!!!"])
def test_a_pattern_is_found_wherever_the_end_of_a_text_is_cut_off(tail):
    for character in ("é", "€", "😀"):
        assert Pattern.of("secret").is_in(character * MAX_BYTES + "secret" + tail)


def test_where_a_pattern_takes_too_much_a_rule_keeps_to_the_swarm_and_none_leads_away():
    draws = random.Random(1)
    text = "".join(draws.choice("ab") for _ in range(16_000))
    assert Pattern.of(TOO_MUCH).is_in(text) is None

    for then, targets in (("swarm", ("swarm",)), ("big", ("swarm", "big"))):
        decision = decide(guarded(then), Facts(text=text))
        assert decision.targets == targets
        assert "takes too much" in decision.looked[0].why


TOO_MUCH = "a[ab]{64}c"


def guarded(then: str) -> Policy:
    rule = {"name": "guard", "pattern": TOO_MUCH, "then": then}
    big = {"url": "https://api.example.com/v1", "model": "m"}
    auto = {"upstreams": ["big"], "rules": [rule], "fall_back": then != "swarm"}
    return Policy.model_validate({"upstreams": {"big": big}, "auto": auto})


def limits(policy: Policy, grant: Grant | None = None, **more: object):
    return limits_of(
        Extension.model_validate(more), Caller("g", "k", "n", grant or Grant()), policy
    )


def test_where_data_may_go_is_as_narrow_as_the_narrowest_of_key_class_and_request(policy):
    eu_west, eu = Grant(regions=("eu-west", "us")), Grant(regions=("eu", "us"))

    assert limits(policy).regions == ()
    assert (limits(policy).max_prepaid, limits(policy, max_prepaid=7).max_prepaid) == (0, 7)
    assert limits(policy, eu).regions == ("eu", "us")
    assert limits(policy, eu_west, data_class="internal").regions == ("eu-west",)
    assert limits(policy, eu, data_class="internal").regions == ("eu",)
    assert limits(policy, eu, regions=["us-east"]).regions == ("us-east",)
    restricted = limits(policy, data_class="restricted")
    assert [group.name for group in restricted.groups] == ["lab"]
    assert restricted.direct
    for grant, more in (
        (eu, {"regions": ["asia"]}),
        (eu, {"data_class": "internal", "regions": ["us"]}),
        (Grant(regions=("us",)), {"data_class": "internal"}),
        (eu, {"believe_regions": True}),
        (None, {"data_class": "restricted", "groups": ["other"]}),
    ):
        with pytest.raises(ApiError, match="rule ") as refused:
            limits(policy, grant, **more)
        assert refused.value.code == "data_residency_violation"


def test_restricted_data_without_a_group_of_its_own_goes_nowhere():
    with pytest.raises(ApiError, match="no trust group"):
        limits(Policy(), data_class="restricted")


def test_peers_of_a_group_can_be_listed():
    peers = tuple(map(peer_of, range(1, 6)))
    told = {"classes": {"restricted": {"groups": [f"lab={','.join(peers)}"]}}}

    (group,) = limits(Policy.model_validate(told), data_class="restricted").groups

    assert group.members == peers


def test_only_what_another_might_mend_goes_on_to_the_next():
    decision = Decision(rule="r", why="w", targets=("swarm", "big"))

    assert decision.after("invalid_value") is None
    assert decision.after("context_length_exceeded") is None
    following = decision.after("overloaded")
    assert following is not None
    assert following.in_words() == "big; rule r: w; after swarm: overloaded"
    assert following.after("upstream_failed") is None


def test_the_pace_counts_those_who_still_wait():
    clock = [0.0]
    pace = Pace(lambda: clock[0])

    assert pace.first_token_ms() == 0
    quick, slow = pace.watch(), pace.watch()
    quick.began(1)
    slow.began(1)
    clock[0] = 0.1
    quick.hear(0, Token(0, 0, "a"))
    assert pace.first_token_ms() == 100
    clock[0] = 10.0
    assert pace.first_token_ms() == 5050
    slow.ended(0, "cancelled", "")
    clock[0] = 100.0
    assert pace.first_token_ms() == 0


def test_what_means_something_here_alone_is_told_to_no_upstream():
    upstream = Upstream(url="https://api.example.com/v1", model="large", drop=["seed"])
    ours = {"manyhands": {"wait_s": 1}, "cache_salt": "a", "return_token_ids": True, "seed": 1}

    assert _body(upstream, {"model": "a", "prompt": "b", **ours}, "completions") == {
        "model": "large",
        "prompt": "b",
    }


class Lines:
    """As much of an HTTP response as is read of it."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        for line in self._lines:
            yield f"{line}\n\n".encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=12,
)
CHOICE = st.fixed_dictionaries(
    {"index": st.just(0)},
    optional={"delta": JSON, "finish_reason": st.sampled_from([None, "stop"])},
)
FRAME = JSON | st.fixed_dictionaries(
    {"choices": st.lists(CHOICE, max_size=2)}, optional={"usage": JSON}
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(FRAME.map(lambda told: f"data: {json.dumps(told)}") | st.text(max_size=9), max_size=6),
    st.booleans(),
)
def test_whatever_an_upstream_says_ends_as_a_whole_answer_or_as_an_upstreams_failure(lines, done):
    asked = ChatAsked.model_validate(
        {"model": "a", "messages": [{"role": "user", "content": "a"}], "stream": True}
    )
    passing = Passing(asked, dict, "id")

    async def told() -> bytes:
        used, said = Used(), b""
        response: Any = Lines([*lines, *(["data: [DONE]"] if done else [])])
        try:
            async for frame in _events("big", response, used):
                said += b"".join(passing.frames([frame]))
            return said + b"".join(passing.end())
        except ApiError as error:
            return said + passing.failed(error)

    *frames, last = events(asyncio.run(told()).decode())

    if last == "[DONE]":
        assert "manyhands" in frames[-1]
    else:
        assert last["error"]["code"] == "upstream_failed"
        assert "[DONE]" not in frames
