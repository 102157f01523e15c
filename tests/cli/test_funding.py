"""`swarm create --funding`: what is pinned by the swarm's id, and what is refused before."""

import json

import pytest

from ledger import Ledger
from ledger.policy import BILATERAL, GRANTED, SETTLED
from ledger.swarms import policy_at
from manyhands.home import Home, open_identity
from manyhands.membership import enter, load_state
from protocol.errors import IntegrityError
from protocol.identity import peer_id_from_public_key
from protocol.membership.state import SwarmState
from tests.announcing import key_of, peer_of
from tests.cli.command import assert_explained
from tests.membership import found


@pytest.fixture
def run(here, tmp_path):
    return lambda *line, home="home": here(*line, "--home", tmp_path / home)


def test_a_founder_alone_issues_and_witnesses_and_is_told_what_that_means(run, tmp_path):
    made = run("swarm", "create", "org", "--private", "--funding", "granted")

    place = tmp_path / "home" / "swarms" / "org"
    policy, state = policy_at(place), load_state(Home.at(place))
    witness = json.loads(run("ledger", "witness", "status", "--json", home=place).out)
    assert made.code == 0, made.err
    assert (policy.mode, policy.quorum_k, policy.name) == (GRANTED, 1, "org")
    assert [name for name, _ in policy.witnesses] == [witness["name"]]
    assert state.policy.witnesses[0][1].startswith("12D3KooW")
    assert "1 of 1 witness must sign" in made.err
    assert "--witness" in made.err


def test_issuers_and_witnesses_can_be_named(run, tmp_path):
    names = ["w1.example.org", "w2.example.org"]
    vkeys = [
        run("ledger", "witness", "key", "--name", name, home=name).out.strip() for name in names
    ]
    named = [f"--witness={vkey}@https://w.example.org/{n}" for n, vkey in enumerate(vkeys)]
    issuers = [f"--issuer={peer_of(1)}", f"--issuer={key_of(2).public_key.hex()}"]

    made = run("swarm", "create", "org", "--funding=granted", *named, *issuers)
    twice = [f"--witness={vkeys[0]}@{peer_of(n)}" for n in (1, 2)]
    refused = run("swarm", "create", "two", "--funding=granted", *twice)

    policy = policy_at(tmp_path / "home" / "swarms" / "org")
    assert "2 of 2 witnesses" in made.err
    assert {*map(peer_id_from_public_key, policy.issuers)} == {peer_of(1), peer_of(2)}
    assert policy.assets == policy.issuers
    assert [name for name, _ in policy.witnesses] == names
    assert run("ledger", "witness", "key", home=names[0]).out.strip() == vkeys[0]
    assert_explained(refused, 2, "a name and a key of its own")
    assert not (tmp_path / "home" / "swarms" / "two" / "membership").exists()


def test_where_a_witness_is_may_be_told_later_and_nothing_else_of_funding(run, tmp_path):
    vkey = run("ledger", "witness", "key", "--name", "w.example.org", home="w").out.strip()
    run("swarm", "create", "org", "--funding=granted", f"--witness={vkey}", "--default")
    place = Home.at(tmp_path / "home" / "swarms" / "org")
    before = load_state(place)

    told = run("swarm", "witness", "w.example.org", "https://w.example.org")
    other = run("swarm", "witness", "x.example.org", "https://x.example.org")
    nowhere = run("swarm", "witness", "w.example.org", "somewhere")

    after = load_state(place)
    assert told.code == 0, told.err
    assert before.policy.witnesses == (("w.example.org", "-"),)
    assert after.policy.witnesses == (("w.example.org", "https://w.example.org"),)
    assert (after.swarm_id, after.policy.funding) == (before.swarm_id, before.policy.funding)
    assert_explained(other, 2, "no witness 'x.example.org'")
    assert_explained(nowhere, 2, "no peer, address or URL")


def test_a_swarm_that_says_nothing_is_bilateral_as_before(run, tmp_path):
    assert run("swarm", "create", "den", "--funding", "bilateral").code == 0

    place = tmp_path / "home" / "swarms" / "den"
    assert not load_state(Home.at(place)).policy.funding
    assert (policy_at(place).mode, policy_at(place).name) == (BILATERAL, "den")
    assert policy_at(tmp_path / "home").name == "open"


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--issuer", peer_of(1)], "--funding granted"),
        (["--funding", "granted", "--issuer", "ann"], "no account"),
        (["--funding", "granted", "--witness", "w"], "witness key"),
        (["--epoch", "1h"], "--funding granted"),
        (["--funding", "granted", "--epoch", "367d"], "one minute to 366 days"),
        (["--funding", "granted", "--epoch", "0m"], "no time"),
    ],
)
def test_what_cannot_be_funded_so_founds_nothing(run, tmp_path, flags, word):
    assert_explained(run("swarm", "create", "org", *flags), 2, word)
    assert not (tmp_path / "home" / "swarms").exists()


def test_nobody_joins_a_swarm_that_nobody_could_be_paid_in(tmp_path):
    state = SwarmState(found(name="org", funding=b"not a policy"))

    with pytest.raises(IntegrityError):
        enter(Home.at(tmp_path / "home"), state, {})
    assert not (tmp_path / "home" / "membership" / "founding").exists()


def test_a_settled_swarm_says_for_ever_what_a_credit_is_worth(run, tmp_path):
    paid = ("--funding", "settled", "--credit-is", "1.25", "EUR")
    made = run("swarm", "create", "org", "--private", *paid)
    place = tmp_path / "home" / "swarms" / "org"
    policy, client = policy_at(place), open_identity(place / "client")
    Ledger.open(place / "client", client.key, load_state(Home.at(place)).swarm_id).close()

    told = run("ledger", "statement", "--json", home=place)

    assert made.code == 0, made.err
    assert (policy.mode, policy.currency, policy.credit_micros) == (SETTLED, "EUR", 1_250_000)
    assert "is worth 1.25 EUR" in made.err
    (book,) = json.loads(told.out)["ledgers"]
    assert book["money"]["currency"] == "EUR"


@pytest.mark.parametrize(
    "line",
    [
        ("--funding", "settled"),
        ("--funding", "granted", "--credit-is", "1", "EUR"),
        ("--funding", "settled", "--credit-is", "1", "euro"),
        ("--funding", "settled", "--credit-is", "0", "EUR"),
        ("--funding", "settled", "--credit-is", "1e3", "EUR"),
        ("--funding", "settled", "--credit-is", "1.0000001", "EUR"),
    ],
)
def test_what_a_credit_is_worth_is_said_whole_or_not_at_all(run, line):
    made = run("swarm", "create", "org", "--private", *line)

    assert_explained(made, 2)


def test_how_long_epochs_last_is_the_founders_choice_and_told(run, tmp_path):
    paces = ("--epoch", "90m", "--grace", 2, "--retain", 0, "--holdback", 3)
    made = run("swarm", "create", "org", "--private", "--funding", "granted", *paces)
    run("swarm", "create", "den", "--private", "--funding", "granted")

    policy, usual = (policy_at(tmp_path / "home" / "swarms" / name) for name in ("org", "den"))
    assert "settled every 90m" in made.err
    assert (policy.epoch_s, policy.grace_epochs) == (5400, 2)
    assert (policy.retain_epochs, policy.holdback_epochs) == (0, 3)
    assert (usual.epoch_s, usual.grace_epochs) == (86_400, 1)
    assert (usual.retain_epochs, usual.holdback_epochs) == (30, 1)
