"""What strangers sign about each other over many tabs, and how a home keeps and shows it."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from click.testing import CliRunner

from ledger import Ledger
from ledger.cli import ledger as commands
from ledger.tallies import FILE_NAME, Tallies, signed_too
from ledger.tally import Kin, Tally, open_kin, open_tally
from protocol.errors import IntegrityError
from protocol.identity import peer_id_from_public_key
from protocol.key_files import write_new_key
from protocol.signing import SigningKey
from tests.ledger.parties import CLIENT, PROVIDER, STRANGER, SWARM, closed_receipt

OWED = 184  # what `closed_receipt` comes to
SAID = Tally(
    payer=CLIENT.public_key, payee=PROVIDER.public_key, served=OWED, settled=0, issued_ms=0
)


def test_a_tally_is_signed_by_its_payee_or_by_both_and_by_nobody_else():
    assert open_tally(SAID.seal(SWARM, PROVIDER), SWARM) == (SAID, False)
    assert open_tally(SAID.seal(SWARM, PROVIDER, CLIENT), SWARM) == (SAID, True)
    for signers in ((CLIENT,), (STRANGER,), (PROVIDER, STRANGER), (PROVIDER, CLIENT, STRANGER)):
        with pytest.raises(IntegrityError):
            open_tally(SAID.seal(SWARM, *signers), SWARM)
    with pytest.raises(IntegrityError):
        open_tally(SAID.seal(bytes(32), PROVIDER), SWARM)
    with pytest.raises(IntegrityError, match="nobody owes themselves"):
        replace(SAID, payer=SAID.payee)


def test_kin_are_signed_by_both():
    kin = Kin(node=PROVIDER.public_key, client=CLIENT.public_key, issued_ms=0)

    assert open_kin(kin.seal(SWARM, PROVIDER, CLIENT), SWARM) == kin
    for signers in ((CLIENT,), (PROVIDER,), (CLIENT, STRANGER)):
        with pytest.raises(IntegrityError):
            open_kin(kin.seal(SWARM, *signers), SWARM)


def test_of_several_tallies_of_a_pair_the_highest_is_kept(tmp_path):
    with Tallies.open(tmp_path, SWARM) as tallies:
        assert tallies.keep(replace(SAID, settled=50).seal(SWARM, PROVIDER))
        assert not tallies.keep(replace(SAID, settled=49).seal(SWARM, PROVIDER))
        assert tallies.keep(SAID.seal(SWARM, PROVIDER, CLIENT))
        held = tallies.settled(SAID.payer, SAID.payee, b"")

        assert [tally.settled for tally, is_mutual in tallies.all() if not is_mutual] == [50]
        assert open_tally(held, SWARM)[0].settled == 50


def test_a_payer_signs_no_more_than_its_own_log_has():
    word = SAID.seal(SWARM, PROVIDER).encode()
    payee = PROVIDER.public_key

    alone, mutual = signed_too(word, CLIENT, payee, OWED, SWARM)
    assert open_tally(mutual, SWARM) == (SAID, True)
    assert signed_too(word, CLIENT, payee, OWED - 1, SWARM) == [alone]
    with pytest.raises(IntegrityError, match="no tally of the two of us"):
        signed_too(word, STRANGER, payee, OWED, SWARM)


@pytest.fixture
def home(tmp_path):
    node = tmp_path / "node"
    ledger = Ledger.open(node, PROVIDER, SWARM)
    ledger.append(closed_receipt(20))
    ledger.close()
    write_new_key(node / "identity.key", PROVIDER, None)
    return tmp_path


def run(home, *args):
    result = CliRunner().invoke(commands, [*args, "--home", str(home), "--json"])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout) if result.exit_code == 0 else result.output


def test_a_creditor_records_what_it_was_paid_and_the_debt_is_less(home):
    peer = peer_id_from_public_key(CLIENT.public_key)

    _, before = run(home, "debts")
    code, said = run(home, "paid", peer, "0.000000100")
    run(home, "paid", peer, "0.000000050")
    _, after = run(home, "debts")

    assert (code, said["settled_ncr"], said["earned_ncr"]) == (0, 100, OWED)
    assert [row["owes_ncr"] for row in before["ledgers"][0]["debts"]] == [OWED]
    (row,) = after["ledgers"][0]["debts"]
    assert (row["peer"], row["got_ncr"], row["owes_ncr"]) == (peer, 150, OWED - 150)


def test_of_two_papers_of_a_client_that_which_was_signed_last_holds_in_either_order(tmp_path):
    papers = [
        Kin(node=node.public_key, client=CLIENT.public_key, issued_ms=at_ms)
        for at_ms, node in ((1, STRANGER), (2, PROVIDER))
    ]
    for name, shown in (("a", papers), ("b", papers[::-1])):
        (tmp_path / name).mkdir()
        with Tallies.open(tmp_path / name, SWARM) as tallies:
            for paper, node in ((each, each.node) for each in shown):
                signer = {key.public_key: key for key in (STRANGER, PROVIDER)}[node]
                tallies.introduce(paper.seal(SWARM, signer, CLIENT))

            assert list(tallies.kin()) == [papers[1]]


def test_a_client_shows_its_kin_anew_also_where_no_more_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("ledger.tallies.MAX_OTHERS", 1)
    fixed = {"node": PROVIDER.public_key, "client": CLIENT.public_key}
    with Tallies.open(tmp_path, SWARM) as tallies:
        for at_ms in (1, 1, 2):
            tallies.introduce(Kin(**fixed, issued_ms=at_ms).seal(SWARM, PROVIDER, CLIENT))

        assert [kin.issued_ms for kin in tallies.kin()] == [2]


def test_44_what_there_is_no_room_for_is_nobodys_fault(tmp_path, monkeypatch):
    monkeypatch.setattr("ledger.tallies.MAX_OTHERS", 0)
    paper = Kin(node=PROVIDER.public_key, client=CLIENT.public_key, issued_ms=1)
    with Tallies.open(tmp_path, SWARM) as tallies:
        assert not tallies.keep(SAID.seal(SWARM, PROVIDER, CLIENT))
        assert tallies.introduce(paper.seal(SWARM, PROVIDER, CLIENT)) == paper

        assert list(tallies.kin()) == list(tallies.all()) == []
        assert tallies.keep(SAID.seal(SWARM, PROVIDER)), "what its payee alone signed is ours"


def test_39_made_up_tallies_give_way_to_those_by_which_something_flows_to_us(tmp_path, monkeypatch):
    """Whoever worked for us vouches for another; a ring that did nothing for us says far more."""
    monkeypatch.setattr("ledger.tallies.MAX_OTHERS", 4)
    us, friend = STRANGER.public_key, PROVIDER.public_key
    keys = [SigningKey.from_seed(bytes([n]) * 32) for n in range(80, 90)]
    with Tallies.open(tmp_path, SWARM, {us}) as tallies:

        def told(payer, payee, served):
            said = Tally(
                payer=payer.public_key,
                payee=payee.public_key,
                served=served,
                settled=0,
                issued_ms=0,
            )
            return tallies.keep(said.seal(SWARM, payer, payee))

        def make_room():
            return tallies.make_room({(friend, us): 100}, {})

        assert all(told(one, other, 10**15) for one, other in pairwise(keys[:5]))
        assert not told(PROVIDER, CLIENT, 5)
        assert tallies.is_full
        assert make_room() == 4
        assert told(PROVIDER, CLIENT, 5)
        assert told(STRANGER, PROVIDER, 7), "our own"
        assert make_room() == 0
        assert all(told(one, other, 10**15) for one, other in pairwise(keys[5:8]))
        assert make_room() == 2

        left = {(tally.payer, tally.payee) for tally, _ in tallies.all()}
        assert left == {(friend, CLIENT.public_key), (us, friend)}


def test_44_newcomers_that_we_served_take_no_room_of_what_others_tell(tmp_path, monkeypatch):
    """A node gives its word to whoever it worked for, and anybody signs that and hands it back."""
    monkeypatch.setattr("ledger.tallies.MAX_OTHERS", 2)
    keys = [SigningKey.from_seed(bytes([n]) * 32) for n in range(80, 90)]
    with Tallies.open(tmp_path, SWARM, {PROVIDER.public_key}) as tallies:

        def told(payer, payee):
            said = replace(SAID, payer=payer.public_key, payee=payee.public_key)
            return tallies.keep(said.seal(SWARM, payer, payee))

        assert all(told(newcomer, PROVIDER) for newcomer in keys)

        assert not tallies.is_full
        assert all(told(*pair) for pair in ((CLIENT, STRANGER), (STRANGER, CLIENT)))
        assert tallies.is_full
        assert told(STRANGER, PROVIDER), "of ours there is always room"


@pytest.mark.parametrize("amount", ["0", "-1", "1e3", "many", "1.0000000001", "9" * 30, ".5", "٣"])
def test_an_amount_that_is_none_is_an_error_of_use(home, amount):
    code, output = run(home, "paid", peer_id_from_public_key(CLIENT.public_key), "--", amount)

    assert code == 2, output
    assert not (home / "node" / FILE_NAME).exists()


def test_a_damaged_file_of_tallies_says_which_it_is(home):
    (home / "node" / FILE_NAME).write_bytes(b"no database" * 1000)

    with pytest.raises(IntegrityError, match=r"tallies\.sqlite"):
        run(home, "debts")
