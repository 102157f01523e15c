"""What was found about others, as people and scripts see it."""

import json

import pytest
from click.testing import CliRunner

from ledger.credit_views import fork_view
from ledger.errors import DamagedLedger
from ledger.findings import FILE_NAME, Findings
from ledger.lines import peer_name
from ledger.verdicts import MISMATCH
from manyhands.calibrating.command import ledger as ledger_commands
from manyhands.home import open_identity
from protocol.errors import IntegrityError, UsageError
from tests.ledger.parties import CLIENT, PROVIDER, STRANGER, SWARM
from tests.ledger.test_forks import ANN, TO_BEN, TO_CY, fork_fault
from tests.ledger.test_judging import AUDITOR, OTHER, fault_of, look, verdict


def run(*args):
    result = CliRunner().invoke(ledger_commands, [str(arg) for arg in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def read(*args):
    return json.loads(run(*args, "--json"))


@pytest.fixture
def home(tmp_path):
    (tmp_path / "client").mkdir()
    with Findings.open(tmp_path / "client", SWARM) as findings:
        findings.note([look(), look(), look(MISMATCH, STRANGER)])
        findings.add(fault_of(verdict(AUDITOR), verdict(OTHER, 2)).seal(SWARM, CLIENT))
    return tmp_path


def test_audits_are_listed_with_what_they_come_to(home):
    view = read("audit", "list", "--home", home)

    assert view["schema"] == "manyhands/ledger-audit-list/v1"
    assert [each["result"] for each in view["looks"]] == ["match", "match", "mismatch"]
    standings = {each["peer"]: each for each in view["standings"]}
    good, bad = (standings[peer_name(key.public_key)] for key in (PROVIDER, STRANGER))
    assert good["reputation"] > 0.3 > bad["reputation"]
    text = run("audit", "list", "--home", home)
    assert "as it should be" in text
    assert "wrong" in text


def test_one_look_is_shown_with_its_verdict(home):
    view = read("audit", "show", "2", "--home", home)

    assert (view["number"], view["window"], view["verdict"]) == (2, 0, b"signed".hex())
    with pytest.raises(UsageError, match="no look 9"):
        run("audit", "show", "9", "--home", home)


def test_faults_are_listed_and_their_evidence_shown(home):
    (fault,) = read("dispute", "list", "--home", home)["faults"]
    (shown,) = read("dispute", "show", fault["peer"], "--home", home)["faults"]

    assert fault["peer"] == peer_name(PROVIDER.public_key)
    assert len(fault["rests_on"]) == 2
    assert [piece["what"] for piece in shown["evidence"]] == [
        "mh/terms/1",
        "mh/statement/1",
        "place under a signed root",
        "mh/verdict/1",
        "mh/verdict/1",
    ]
    assert "mh/verdict/1" in run("dispute", "show", fault["peer"], "--home", home)
    assert "blocks 0:4 gave wrong" in " ".join(run("dispute", "list", "--home", home).split())
    with pytest.raises(UsageError, match="nothing here proves"):
        run("dispute", "show", peer_name(STRANGER.public_key), "--home", home)


def test_a_home_that_found_nothing_says_so(tmp_path):
    assert read("dispute", "list", "--home", tmp_path)["faults"] == []
    assert "nothing was looked at" in run("audit", "list", "--home", tmp_path)
    assert not list(tmp_path.rglob(FILE_NAME))


def test_a_damaged_file_is_said_to_be_damaged(home):
    path = home / "client" / FILE_NAME
    path.write_bytes(b"not a database at all" * 100)

    with pytest.raises(DamagedLedger, match=FILE_NAME):
        run("dispute", "list", "--home", home)


@pytest.fixture
def elsewhere(tmp_path):
    root = tmp_path / "elsewhere"
    for role in ("client", "node"):
        open_identity(root / role)
    return root


def test_what_one_home_shows_another_one_takes_up_and_tells_as_its_own(home, elsewhere, tmp_path):
    peer = peer_name(PROVIDER.public_key)
    (tmp_path / "shown.json").write_text(run("dispute", "show", peer, "--home", home, "--json"))

    opened = ("dispute", "open", tmp_path / "shown.json", "--home", elsewhere)
    (first,), (again,) = (read(*opened)["opened"] for _ in range(2))

    assert (first["peer"], first["is_new"], again["is_new"]) == (peer, True, False)
    assert f"{peer}: blocks 0:4 gave wrong" in run(*opened)
    for role in ("client", "node"):
        ours = open_identity(elsewhere / "client").public_key
        with Findings.open(elsewhere / role, SWARM) as findings:
            assert [each.reporter for each in findings.faults()] == [ours]
            assert not findings.at_fault(())  # on strangers' word: it is read, not believed
            assert findings.at_fault([AUDITOR.public_key])


def test_28_a_fork_that_is_shown_is_taken_up_by_who_has_no_log_of_it(elsewhere, tmp_path):
    shown = fork_view(fork_fault(ANN.public_key, SWARM, TO_BEN.side(7), TO_CY.side(7)), SWARM)
    (tmp_path / "shown.json").write_text(json.dumps({"disputes": [shown], "faults": []}))

    run("dispute", "open", tmp_path / "shown.json", "--home", elsewhere)

    with Findings.open(elsewhere / "node", SWARM) as findings:
        assert set(findings.at_fault(())) == {ANN.public_key}


@pytest.mark.parametrize(
    ("text", "error", "complaint"),
    [
        ("no JSON", UsageError, "not what"),
        ("[" * 100_000, UsageError, "not what"),
        ('{"faults": {}}', UsageError, "not what"),
        ("{}", UsageError, "has 0 faults"),
        ('{"faults": [1]}', IntegrityError, "number 1"),
        (
            '{"faults": [{"kind": "fork", "accused": "zz", "evidence": []}]}',
            IntegrityError,
            "number",
        ),
    ],
)
def test_what_proves_nothing_is_refused_whole(elsewhere, tmp_path, text, error, complaint):
    (tmp_path / "shown.json").write_text(text)

    with pytest.raises(error, match=complaint):
        run("dispute", "open", tmp_path / "shown.json", "--home", elsewhere)

    assert not (elsewhere / "node" / FILE_NAME).exists()


def test_evidence_that_was_changed_is_taken_up_by_nobody(home, elsewhere, tmp_path):
    view = read("dispute", "show", peer_name(PROVIDER.public_key), "--home", home)
    piece = view["faults"][0]["evidence"][1]
    piece["bytes"] = piece["bytes"][:-2] + f"{int(piece['bytes'][-2:], 16) ^ 1:02x}"
    (tmp_path / "shown.json").write_text(json.dumps(view))

    with pytest.raises(IntegrityError, match="number 1"):
        run("dispute", "open", tmp_path / "shown.json", "--home", elsewhere)
