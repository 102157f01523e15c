"""When nobody serves some blocks, the refusal names them, and the constraint that does it."""

from dataclasses import replace

import pytest

from protocol.constraints import Group
from protocol.measured import Measured, State
from scheduler.refusal import incomplete
from scheduler.wanted import Limits
from tests.announcing import announce, peer_of
from tests.scheduler.test_wanted import WANTED, limited, offer

HALF = announce(1, (0, 4), region="eu")
PRICE = {"offer": offer(2, decode_tl=900)}


@pytest.mark.parametrize(
    ("other", "limits", "constraint", "words"),
    [
        ({"region": "us"}, {"regions": ("eu",)}, "region", "nobody in region eu serves blocks 4:8"),
        (
            {"region": "eu", **PRICE},
            {"regions": ("eu",), "max_price": 500},
            "max-price",
            "nobody for 500 ncr per million or less serves blocks 4:8",
        ),
        ({}, {"avoid": (peer_of(2),)}, "avoid", "nobody whom you do not avoid serves blocks 4:8"),
        (
            {"measured": Measured(group="lab")},
            {},
            "group",
            "nobody outside private groups serves blocks 4:8",
        ),
        (
            {"measured": Measured(state=State.DRAINING)},
            {},
            "state",
            "nobody that takes new sessions serves blocks 4:8",
        ),
    ],
)
def test_the_constraint_that_leaves_blocks_without_a_host_is_named(
    other, limits, constraint, words
):
    swarm = [HALF, announce(2, (4, 8), **other)]

    refusal = incomplete(swarm, limited(**limits), model="tiny")

    assert refusal is not None
    assert (refusal.missing, refusal.constraint, refusal.exit_code) == (((4, 8),), constraint, 5)
    assert str(refusal) == f"{words} of tiny"
    assert refusal.hint


def test_who_only_says_that_it_is_there_is_told_of_and_how_to_take_its_word():
    swarm = [announce(1, region="us"), announce(2, region="eu"), announce(3, region="eu")]
    doubted = replace(limited(regions=("us",)), doubted=frozenset({peer_of(1)}))

    refusal = incomplete(swarm, doubted, model="tiny")

    assert refusal is not None
    assert refusal.constraint == "believe-regions"
    words = "nobody in region us, as far as measurements go, serves blocks 0:8 of tiny"
    assert str(refusal) == words
    assert refusal.hint.startswith("1 peer says so, and others measured that this cannot be")
    assert "--believe-regions" in refusal.hint


def test_a_required_peer_whose_region_is_contradicted_is_named_with_that():
    wanted = limited(regions=("us",), require=(peer_of(1),))
    doubted = replace(wanted, doubted=frozenset({peer_of(1)}))

    refusal = incomplete([announce(1, region="us")], doubted)

    assert f"{peer_of(1)} (measurements contradict its region us)" in str(refusal)


def test_a_group_without_a_host_leaves_everything():
    refusal = incomplete([HALF], limited(groups=(Group("lab"),)))

    assert refusal is not None
    assert (refusal.missing, refusal.constraint) == (((0, 8),), "group")
    assert "in group lab" in str(refusal)


@pytest.mark.parametrize(
    ("peers", "why"),
    [
        ([announce(1)], "it is not among those"),
        ([announce(1), announce(2, None)], "it serves no blocks yet"),
        ([announce(1), announce(2, n_blocks=9)], "it serves another model"),
    ],
)
def test_a_required_peer_that_cannot_serve_is_named_with_the_reason(peers, why):
    refusal = incomplete(peers, limited(require=(peer_of(2),)))

    assert refusal is not None
    assert refusal.constraint == "require"
    assert f"nobody with the required {peer_of(2)} ({why}" in str(refusal)


def test_a_profile_that_was_asked_for_and_nobody_runs_is_named_with_those_that_are_run():
    refusal = incomplete([announce(1)], replace(WANTED, profile="bfloat16/none/bfloat16"))

    assert refusal is not None
    assert (refusal.missing, refusal.constraint) == (((0, 8),), "profile")
    assert "nobody in profile bfloat16/none/bfloat16 serves" in str(refusal)
    assert "others run float32/none/float32" in refusal.hint


def test_who_was_lost_in_this_session_is_no_constraint_of_the_client():
    swarm = [HALF, announce(2, (4, 8))]

    refusal = incomplete(swarm, replace(WANTED, avoid=[peer_of(2)]), model="tiny")

    assert refusal is not None
    assert refusal.constraint == ""
    assert "serve tiny --span 4:8; or ask again with --wait" in refusal.hint
    told = incomplete(swarm, replace(WANTED, avoid=[peer_of(2)]), model="tiny", waits=False)
    assert told is not None
    assert told.hint == "start a node for them: manyhands serve tiny --span 4:8"


def test_nothing_is_refused_where_every_block_is_served():
    assert incomplete([announce(1)], replace(WANTED, limits=Limits(avoid=(peer_of(3),)))) is None
