"""How peers and models are judged and shown, from made-up announcements."""

import json
import re

import pytest

from manyhands.condition import Seen, condition_of, model_condition
from manyhands.status import model_views, peer_views
from manyhands.tables import show_peers, show_status
from protocol.measured import Measured, State
from protocol.messages import Span
from tests.announcing import announce

WELL = Seen(rtt_ms=0.4, age_s=3.0)
LONG = "connection refused; its network lets nobody in and it names no relay that could be asked"


def test_a_peer_that_answers_and_has_room_is_well():
    condition = condition_of(announce(1), WELL)

    assert (condition.state, condition.why) == ("serving", ())
    assert WELL.path == "direct"


@pytest.mark.parametrize(
    ("changes", "seen", "state", "why"),
    [
        ({"measured": Measured(state=State.DRAINING)}, WELL, "draining", "it leaves"),
        ({"measured": Measured(state=State.MOVING)}, WELL, "moving", "other blocks"),
        ({}, Seen(rtt_ms=1.0, age_s=23.4), "silent", "silent since 23 s"),
        ({}, Seen(why_not="refused"), "unreachable", "not reachable from here: refused"),
        ({"decode_us": 5000}, Seen(slowdown=3.0), "slow", "took 15.0 ms, it announces 5.0 ms"),
        (
            {"measured": Measured(position_bytes=1000), "kv_free_bytes": 64_000},
            WELL,
            "full",
            "room for 64 more tokens",
        ),
        ({}, Seen(skew_s=-300.0), "serving", "its clock is 300 s behind"),
    ],
)
def test_whatever_is_not_well_says_why(changes, seen, state, why):
    condition = condition_of(announce(1, **changes), seen)

    assert condition.state == state
    [told] = condition.why
    assert why in told


def test_a_few_milliseconds_more_than_announced_are_nobodys_trouble():
    """A small model's steps waver by several times on a machine that does something else."""
    quick = condition_of(announce(1, decode_us=1500), Seen(slowdown=4.0))
    heavy = condition_of(announce(1, decode_us=60_000), Seen(slowdown=1.4))

    assert (quick.state, heavy.state) == ("serving", "serving")


def test_of_several_reasons_the_worst_names_the_state_and_all_are_told():
    peer = announce(1, measured=Measured(state=State.DRAINING))

    condition = condition_of(peer, Seen(why_not="refused", slowdown=9.0))

    assert condition.state == "unreachable"
    assert len(condition.why) == 3


def test_hosts_that_take_no_sessions_do_not_cover_their_blocks():
    going = announce(1, (0, 4), measured=Measured(state=State.DRAINING))
    away, here = announce(2, (2, 4)), announce(3, (4, 8))
    seen = {going: WELL, away: Seen(why_not="refused"), here: WELL}

    found = model_condition({peer: condition_of(peer, saw) for peer, saw in seen.items()})

    assert found.coverage == ((0, 4, 0), (4, 8, 1))
    assert (found.missing, found.tokens_per_s) == (((0, 4),), 0.0)
    assert found.warnings == (
        "nobody serves blocks 0:4: who announces them is draining or unreachable",
    )


def test_the_flow_names_the_blocks_that_limit_it_and_single_hosts_are_warned_of():
    peers = [announce(1, (0, 4)), announce(2, (0, 4)), announce(3, (4, 8))]

    found = model_condition({peer: condition_of(peer, WELL) for peer in peers})

    assert found.tokens_per_s == pytest.approx(250.0)  # 4 blocks at 1 ms each, one host
    assert found.limits == ((4, 8),)
    assert found.coverage == ((0, 4, 2), (4, 8, 1))
    assert found.warnings == ("blocks 4:8 have one host only: without it no answer is complete",)


def test_profiles_that_share_no_chain_do_not_cover_for_each_other():
    peers = [announce(1, (0, 6)), announce(2, (6, 8), profile="bfloat16/none/bfloat16")]

    found = model_condition({peer: condition_of(peer, WELL) for peer in peers})

    assert (found.profile, found.missing) == ("float32/none/float32", ((6, 8),))
    assert found.warnings[1].startswith("1 peer runs bfloat16/none/bfloat16")


def motley():
    old = {"software": "manyhands/0.1.0 torch/2.8", "n_sessions": 12}
    full = Measured(queue_us=12_345_000, position_bytes=2**20)
    return {
        announce(1, (0, 3), **old): WELL,
        announce(2, (0, 3), measured=Measured(state=State.DRAINING), **old): WELL,
        announce(3, (3, 8), measured=full, kv_free_bytes=2**26): Seen(slowdown=3.2, age_s=999.0),
        announce(4, (3, 8), decode_us=123_456_789, **old): Seen(why_not=LONG),
        announce(5, (100, 126), n_blocks=126, manifest=b"m" * 32, model="m" * 128): WELL,
    }


def test_tables_fit_a_terminal_of_eighty_columns(monkeypatch, capsys):
    for name, value in (("COLUMNS", "80"), ("FORCE_COLOR", "1"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    rows = peer_views(motley())
    view = {"version": "0.1.0", "home": "/h", "running": [], "models": model_views(motley())}

    show_peers(rows)
    show_status(view | {"peers_not_well": [row for row in rows if row["why"]], "bans": []})

    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, shown.splitlines())) <= 80
    for word in ("draining", "unreachable", "silent", "100:126", "12s", "0.1.0", "relay"):
        assert word in shown, shown
    assert "…\n" not in shown, "nothing is cut off"


def test_views_say_the_same_to_scripts():
    rows = json.loads(json.dumps(peer_views(motley())))
    models = json.loads(json.dumps(model_views(motley())))

    assert [row["state"] for row in rows].count("serving") == 2
    assert {"path", "age_s", "queue_us", "kv_free_bytes", "blocks_per_s", "why"} <= set(rows[0])
    assert [model["complete"] for model in models] == [True, False]
    assert models[0]["states"] == {"serving": 1, "draining": 1, "silent": 1, "unreachable": 1}


def test_who_loads_blocks_is_told_as_coming_and_is_nobodys_host(capsys):
    begun = Measured(since_ms=1)
    seen = {
        announce(1, (0, 4)): WELL,
        announce(2, None, addresses=(), loading=Span(4, 8), profile="", measured=begun): Seen(
            loading_s=35.0
        ),
    }
    [told], rows = model_views(seen), peer_views(seen)

    show_peers(rows)
    show_status(
        {"version": "0", "home": "h", "running": [], "models": [told], "peers_not_well": []}
        | {"peers_loading": rows[1:]}
    )

    assert (told["coverage"], told["coming"]) == ([[0, 4, 1], [4, 8, 0]], [[4, 8, 1]])
    assert told["warnings"] == ["nobody serves blocks 4:8: who announces them is loading"]
    assert (rows[1]["state"], rows[1]["loading"], rows[1]["span"]) == ("loading", [4, 8], None)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("loading blocks 4:8 since 35 s: it will serve them") == 2
    assert "4:8 1 coming" in shown


def test_a_model_that_is_only_loaded_yet_is_incomplete():
    alone = announce(2, None, addresses=(), loading=Span(0, 8), profile="")

    [told] = model_views({alone: Seen()})

    assert (told["complete"], told["peers"], told["states"]) == (False, 0, {"loading": 1})
    assert told["coming"] == [[0, 8, 1]]


def test_one_peer_that_makes_the_model_longer_than_it_is_makes_it_incomplete_for_nobody(capsys):
    whole, liar = announce(1), announce(2, (0, 900), n_blocks=1000)
    seen = {whole: WELL, liar: WELL}

    [told] = model_views(seen)
    show_peers(peer_views(seen))

    assert told["complete"]
    assert told["n_blocks"] == 8
    assert told["coverage"] == [[0, 8, 1]]
    assert any("another number of blocks" in warning for warning in told["warnings"])
    assert "tiny, 8 blocks" in capsys.readouterr().out
