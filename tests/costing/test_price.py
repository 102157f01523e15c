"""What a machine's work costs, worked out by hand; and the price that a home's node asks."""

import json
from decimal import Decimal

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from manyhands.costing.floor import Power, floor_ncr, with_margin
from manyhands.costing.own_price import FREE, MOST_NCR, Price, price_file, read_price, write_price
from manyhands.costing.power import Counter, find_counters, read_all, watts_between
from manyhands.costing.price_command import _against, _say_against, price
from manyhands.costing.speed import told
from manyhands.home import Home
from protocol.errors import ConfigError, UsageError
from protocol.measured import Measured
from tests.announcing import announce


def watts(w, kwh, pue="1.1"):
    return Power(watts=Decimal(w), kwh=Decimal(kwh), pue=Decimal(pue))


@pytest.mark.parametrize(
    ("power", "speed", "dollars_per_mtl"),
    [  # the design's table, to the digits it gives
        (watts(350, "0.15"), 8_000, "0.00201"),
        (watts(400, "0.15"), 60_000, "0.00031"),
        (watts(650, "0.10"), 100_000, "0.00020"),
        (watts(120, "0.25"), 600, "0.0153"),
    ],
)
def test_the_floor_of_known_machines(power, speed, dollars_per_mtl):
    dollars = Decimal(floor_ncr(power, Decimal(speed))) / 10**9

    assert round(dollars, -Decimal(dollars_per_mtl).as_tuple().exponent) == Decimal(dollars_per_mtl)


def test_the_floor_is_exact_and_rounds_up():
    # 1 kW at 0.36 an hour is 0.0001 a second; a million at 1000 a second take 1000 s: 0.1.
    assert floor_ncr(watts(1000, "0.36", "1"), Decimal(1000)) == 100_000_000
    assert floor_ncr(watts(1, "0.000000001", "1"), Decimal(10**9)) == 1
    assert floor_ncr(watts(0, "1"), Decimal(1)) == 0
    assert with_margin(100, Decimal("0.251")) == 126


@given(st.integers(1, 2000), st.integers(1, 10**6), st.integers(1, 10**6))
def test_who_draws_more_or_computes_less_has_no_lower_floor(power, slow, faster):
    a, b = sorted((slow, faster))

    assert floor_ncr(watts(power, "0.2"), Decimal(a)) >= floor_ncr(watts(power, "0.2"), Decimal(b))
    assert floor_ncr(watts(power + 1, "0.2"), Decimal(a)) >= floor_ncr(
        watts(power, "0.2"), Decimal(a)
    )


def test_nonsense_is_refused():
    for wrong in (("-1", "1", "1"), ("1", "-1", "1"), ("1", "1", "0.9")):
        with pytest.raises(UsageError):
            watts(*wrong)
    with pytest.raises(UsageError):
        floor_ncr(watts(1, 1), Decimal(0))
    with pytest.raises(UsageError):
        with_margin(1, Decimal(-1))


def make_zone(powercap, name, energy_uj, *, kind="package-0"):
    zone = powercap / name
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{kind}\n")
    (zone / "energy_uj").write_text(f"{energy_uj}\n")
    (zone / "max_energy_range_uj").write_text("1000000000\n")
    return zone


def test_power_is_read_from_processor_packages_and_not_from_their_parts(tmp_path):
    zone = make_zone(tmp_path, "intel-rapl:0", 5_000_000)
    make_zone(tmp_path, "intel-rapl:0:0", 4_000_000, kind="core")
    make_zone(tmp_path, "intel-rapl:1", "unreadable")
    counters = [c for c in find_counters(tmp_path) if c.name.startswith("rapl")]

    (counter,) = counters
    before = (0.0, {counter.name: counter.read_j()})
    (zone / "energy_uj").write_text("25000000\n")

    assert watts_between(counters, before, (4.0, {counter.name: counter.read_j()})) == 5


def test_a_counter_that_began_again_has_not_gone_back():
    joules = iter((990.0, 10.0))
    counters = [Counter("one", lambda: next(joules), wraps_j=1000.0)]
    (_, before), (_, after) = read_all(counters), read_all(counters)

    assert watts_between(counters, (0.0, before), (2.0, after)) == 10
    assert watts_between(counters, (2.0, before), (2.0, after)) == 0


def test_a_running_node_tells_its_speed_with_as_many_sessions_as_it_tried():
    steps = Measured(decode_steps_us=((1, 8000), (16, 32_000)))

    speed = told(announce(1, (2, 6), measured=steps, prefill_us_per_row=400))

    assert (speed.decode, speed.prefill, speed.sessions) == (2000, 10_000, 16)
    assert told(announce(1, (2, 6), decode_us=0)) is None
    assert told(announce(1, None)) is None


def run(home, *args):
    result = CliRunner().invoke(price, [*map(str, args), "--home", str(home), "--json"])
    if result.exception:
        raise result.exception
    return json.loads(result.stdout)


def test_a_price_is_set_shown_and_forgotten(tmp_path):
    home = Home.at(tmp_path / "home")
    assert not run(home.root, "show")["set"]

    for arguments, wanted in (
        ((700,), Price(700, 700)),
        (("--prefill", 0, "--decode", 9), Price(0, 9)),
        (("--prefill", 7, "--decode", 9), Price(7, 9)),
    ):
        run(home.root, "set", *arguments)
        assert read_price(home) == wanted
        assert run(home.root, "show")["decode_ncr_per_mtl"] == wanted.decode

    run(home.root, "set", "--forget")
    assert read_price(home) is None
    run(home.root, "set", "--forget")


@pytest.mark.parametrize(
    "arguments", [(), (5, "--decode", 5), ("--decode", 5), (5, "--forget"), (10**16,)]
)
def test_half_a_price_is_a_usage_error(tmp_path, arguments):
    with pytest.raises(UsageError):
        run(tmp_path / "home", "set", *arguments)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 4096,
        b'{"prefill_ncr_per_mtl": -1, "decode_ncr_per_mtl": 1}',
        b'{"prefill_ncr_per_mtl": 1.5, "decode_ncr_per_mtl": true}',
    ],
)
def test_a_price_file_that_is_none_is_an_error_with_the_command_that_mends_it(tmp_path, content):
    home = Home.at(tmp_path / "home")
    write_price(home, FREE)
    price_file(home).write_bytes(content)

    with pytest.raises(ConfigError) as broken:
        read_price(home)

    assert "manyhands price set" in broken.value.hint


def test_without_watts_or_a_counter_nothing_is_loaded_and_the_error_says_what_to_do(tmp_path):
    with pytest.raises(UsageError) as unknown:
        run(tmp_path / "home", "suggest", "--kwh", "0.3")

    assert "--watts" in unknown.value.hint


@pytest.mark.parametrize("watts", ["999999999999", "1e999990"])
def test_power_beyond_any_price_is_a_usage_error(watts):
    power = Power(watts=Decimal(watts), kwh=Decimal(999_999_999_999))

    with pytest.raises(UsageError, match="the most a node may ask"):
        floor_ncr(power, Decimal(1))
    with pytest.raises(UsageError, match="the most a node may ask"):
        with_margin(MOST_NCR, Decimal("0.1"))
    assert with_margin(MOST_NCR, Decimal(0)) == MOST_NCR


@pytest.mark.slow
def test_a_suggestion_for_a_model_tried_here(tmp_path):
    flags = ("--kwh", "0.36", "--watts", "1000", "--margin", "1", "--span", "0:2")

    view = run(tmp_path / "home", "suggest", "tiny", *flags)

    assert view["span"] == [0, 2]
    assert view["sessions"] == 16
    for kind in ("prefill", "decode"):
        speed, floor = view[f"{kind}_tl_per_s"], view["floor"][f"{kind}_ncr_per_mtl"]
        assert speed > 0
        assert floor * speed == pytest.approx(
            10**11, rel=1e-3
        )  # 0.0001 a second, in ncr, times 1e6
        assert view["suggested"][f"{kind}_ncr_per_mtl"] == 2 * floor
    assert view["asked_by_others"] == []


def test_a_suggestion_says_where_the_node_would_stand_among_others(capsys):
    others = [{"peer": "a", "ncr_per_mtl": 200.0}, {"peer": "b", "ncr_per_mtl": 900.0}]
    against = _against(others, Price(50, 100), Price(200, 400))

    assert against == {
        "cheapest_ncr_per_mtl": 200.0,
        "cheapest_times_floor": 2.0,
        "suggested_times_cheapest": 2.0,
        "cheaper_than_suggested": 1,
        "others": 2,
    }
    _say_against({"against_the_cheapest": against, "asked_by_others": others})
    told = capsys.readouterr().out
    assert "2 others who serve this model ask 200 to 900" in told
    assert (
        "the cheapest asks 2 times the floor of this machine, the suggestion is 2 times that"
        in told
    )
    assert "1 of 2 would be cheaper than this node" in told
    assert _against([], Price(50, 100), Price(200, 400)) is None
    free = _against([{"peer": "a", "ncr_per_mtl": 0.0}], Price(0, 0), Price(0, 0))
    assert free is not None
    assert free["cheapest_times_floor"] is free["suggested_times_cheapest"] is None
