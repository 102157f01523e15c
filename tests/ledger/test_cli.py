"""The ledger commands over a home: what they say, and what they end with."""

import json
import sqlite3
import subprocess
import sys

import pytest
from click.testing import CliRunner

from ledger import Ledger
from ledger.cli import ledger as ledger_commands
from ledger.lines import moment
from ledger.reader import FILE_NAME
from protocol.errors import ConfigError, IntegrityError, ManyhandsError, UsageError
from protocol.identity import load_or_create_identity, peer_id_from_public_key
from tests.ledger.parties import NOW_MS, PROVIDER, SWARM, closed_receipt

DAY_MS = 86_400_000


def run(*args):
    return CliRunner().invoke(ledger_commands, [str(arg) for arg in args])


def run_json(*args):
    result = run(*args, "--json")
    if result.exception and not result.stdout:
        raise result.exception
    return json.loads(result.stdout)


@pytest.fixture
def home(tmp_path, at):
    for role in ("client", "node"):
        at(tmp_path / role)
    """A home whose clients spent twice and whose node earned once, from strangers."""
    client = load_or_create_identity(tmp_path / "client" / "identity.key")
    node = load_or_create_identity(tmp_path / "node" / "identity.key")
    with Ledger.open(tmp_path / "client", client.key, SWARM) as ledger:
        ledger.append_all(
            [closed_receipt(client=client.key, nonce=bytes([i]) * 16) for i in range(2)]
        )
    with Ledger.open(tmp_path / "node", node.key, SWARM) as ledger:
        ledger.append(closed_receipt(provider=node.key))
    return tmp_path


def test_balance_shows_mutual_claims_of_node_and_clients(home):
    node, client = run_json("balance", "--home", home)["ledgers"]

    assert (node["role"], client["role"]) == ("node", "client")
    assert node["earned_ncr"] * 2 == client["spent_ncr"] > 0
    assert client["balances"][0]["peer"] == peer_id_from_public_key(PROVIDER.public_key)
    assert client["balances"][0]["net_ncr"] == -client["spent_ncr"]
    assert run_json("balance", "--home", home, "--role", "node")["ledgers"] == [node]


def test_a_balance_with_one_peer_has_nothing_of_others(home):
    peer = peer_id_from_public_key(PROVIDER.public_key)

    node, client = run_json("balance", "--home", home, "--peer", peer)["ledgers"]

    assert (node["balances"], node["earned_ncr"]) == ([], 0)
    assert [row["peer"] for row in client["balances"]] == [peer]
    assert client["spent_ncr"] > 0
    assert run("balance", "--home", home, "--peer", "nobody").exit_code == 2


def test_a_balance_of_an_earlier_day_is_what_a_statement_up_to_it_closes_at(tmp_path):
    node = load_or_create_identity(tmp_path / "node" / "identity.key")
    with Ledger.open(tmp_path / "node", node.key, SWARM) as ledger:
        for n in (1, 2, 3):
            nonce, now_ms = bytes([n]) * 16, NOW_MS + n * DAY_MS
            ledger.append(closed_receipt(provider=node.key, nonce=nonce, now_ms=now_ms))
    days = [f"{moment(NOW_MS + n * DAY_MS):%Y-%m-%d}" for n in range(5)]

    stood = [run_json("balance", "--home", tmp_path, "--as-of", day) for day in days]

    closed = [run_json("statement", "--home", tmp_path, "--to", day) for day in days]
    nets = [view["ledgers"][0]["net_ncr"] for view in stood]
    assert nets == [view["ledgers"][0]["closing_ncr"] for view in closed]
    assert nets[0] == 0 < nets[1] < nets[2] < nets[3] == nets[4]
    assert [view["as_of"] for view in stood] == days
    assert (
        f"as of the end of {days[1]}"
        in run("balance", "--home", tmp_path, "--as-of", days[1]).output
    )
    assert isinstance(run("balance", "--file", "x", "--as-of", days[0]).exception, UsageError)


def test_two_receipts_of_one_tab_leave_balance_and_statement_agreed_whatever_days_they_say(
    tmp_path,
):
    node = load_or_create_identity(tmp_path / "node" / "identity.key")
    with Ledger.open(tmp_path / "node", node.key, SWARM) as ledger:
        for n_tokens, day in ((20, 2), (30, 3), (10, 1), (40, 2)):  # as they were logged
            now_ms = NOW_MS + day * DAY_MS
            receipt = closed_receipt(n_tokens, provider=node.key, nonce=bytes(16), now_ms=now_ms)
            ledger.append(receipt)
    days = [f"{moment(NOW_MS + n * DAY_MS):%Y-%m-%d}" for n in range(5)]

    stood = [run_json("balance", "--home", tmp_path, "--as-of", day) for day in days]

    closed = [run_json("statement", "--home", tmp_path, "--to", day) for day in days]
    nets = [view["ledgers"][0]["net_ncr"] for view in stood]
    assert nets == [view["ledgers"][0]["closing_ncr"] for view in closed]
    assert len(set(nets)) == 3
    assert nets[-1] == run_json("balance", "--home", tmp_path)["ledgers"][0]["net_ncr"]


def test_a_balance_in_one_issuers_credit_has_nothing_in_anothers(home):
    issuer = peer_id_from_public_key(PROVIDER.public_key)

    views = run_json("balance", "--home", home, "--asset", issuer)["ledgers"]

    assert [view["balances"] for view in views] == [[], []]


def test_statement_lists_every_tab(home):
    view = run_json("statement", "--home", home)

    node, client = view["ledgers"]
    assert view["schema"] == "manyhands/ledger-statement/v1"
    assert [tab["direction"] for tab in node["tabs"]] == ["earned"]
    assert [tab["direction"] for tab in client["tabs"]] == ["spent", "spent"]
    assert client["tabs"][0]["meter"]["prefill_tl"] == 32
    assert client["tabs"][0]["span"] == [0, 4]
    other = run_json("statement", "--home", home, "--peer", node["peer"])["ledgers"][1]
    assert other["tabs"] == []


def test_verify_holds_for_an_honest_home(home):
    view = run_json("verify", "--home", home)

    assert view["ok"]
    assert [book["entries"] for book in view["ledgers"]] == [1, 2]
    assert run("verify", "--home", home).exit_code == 0


def test_a_proof_without_end_is_a_usage_error(tmp_path):
    (tmp_path / "deep").write_text("[" * 200_000)

    assert isinstance(run("verify", "--proof", tmp_path / "deep").exception, UsageError)


@pytest.mark.parametrize("at", ["sqlite"], indirect=True)
def test_verify_fails_with_exit_code_8_and_names_the_entry(home):
    database = sqlite3.connect(home / "client" / FILE_NAME)
    with database:
        database.execute("UPDATE entry SET net = net + 1 WHERE idx = 1")
    database.close()

    result = run("verify", "--home", home)

    assert isinstance(result.exception, IntegrityError)
    assert result.exception.exit_code == 8
    assert "entry 1" in str(result.exception)
    assert "entry 1" in result.stdout
    view = run_json("verify", "--home", home)
    assert not view["ok"]
    assert {failure["entry"] for failure in view["ledgers"][1]["failures"]} == {1}


@pytest.mark.parametrize("at", ["sqlite"], indirect=True)
def test_verify_goes_on_past_a_ledger_that_cannot_be_read(home):
    (home / "node" / FILE_NAME).write_bytes(b"no database" * 100)

    node, client = run_json("verify", "--home", home)["ledgers"]

    assert (node["ok"], client["ok"]) == (False, True)
    assert isinstance(run("verify", "--home", home).exception, IntegrityError)


def test_verify_knows_the_owner_by_the_key_beside_the_ledger(home):
    (home / "client" / "identity.key").unlink()
    load_or_create_identity(home / "client" / "identity.key")

    assert not run_json("verify", "--home", home)["ok"]


def test_a_proof_convinces_somebody_who_has_only_the_file(home, tmp_path):
    receipt = run_json("statement", "--home", home)["ledgers"][1]["tabs"][1]["receipt"]
    view = run_json("prove", receipt[:10], "--home", home)
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(view))

    found = run_json("verify", "--proof", file)

    assert found["ok"]
    assert (found["receipt"], found["size"]) == (receipt, 2)
    assert "entry 1 of 2" in run("verify", "--proof", file).stdout
    assert "entry 1 of 2" in run("prove", receipt, "--home", home).stdout


@pytest.mark.parametrize(
    "field", ["peer", "swarm", "entry", "receipt", "salt", "body", "path", "checkpoint", "schema"]
)
def test_a_proof_with_a_changed_field_proves_nothing(home, tmp_path, field):
    tabs = run_json("statement", "--home", home)["ledgers"][1]["tabs"]
    view, other = (run_json("prove", tab["receipt"], "--home", home) for tab in tabs)
    changes = {
        "peer": peer_id_from_public_key(PROVIDER.public_key),
        "swarm": "00" * 32,
        "checkpoint": view["checkpoint"].replace("\n2\n", "\n3\n"),
        "schema": "manyhands/else/v1",
    }
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(view | {field: changes.get(field, other[field])}))

    result = run("verify", "--proof", file)

    assert isinstance(result.exception, IntegrityError)


@pytest.mark.parametrize("content", ["", "not json", "[]", "{}", '{"schema": 1}'])
def test_a_file_that_is_no_proof_is_refused(tmp_path, content):
    file = tmp_path / "proof.json"
    file.write_text(content)

    assert isinstance(run("verify", "--proof", file).exception, (IntegrityError, UsageError))


def test_tables_for_people_show_the_same(home):
    for command in ("balance", "statement", "verify"):
        result = run(command, "--home", home)
        assert result.exit_code == 0
        assert "client" in result.stdout


def test_a_home_without_a_ledger_says_what_makes_one(tmp_path):
    result = run("balance", "--home", tmp_path)

    assert isinstance(result.exception, ConfigError)
    assert "manyhands serve" in result.exception.hint


def test_prune_erases_nothing_that_is_not_settled_and_a_single_receipt_on_request(home):
    kept = run_json("prune", "--home", home)
    shown = run_json("statement", "--home", home, "--role", "node")["ledgers"][0]["tabs"][0]
    tried = run_json("prune", "--home", home, "--receipt", shown["receipt"], "--dry-run")
    assert [book["erased"] for book in kept["ledgers"] + tried["ledgers"]] == [0, 0, 1]
    assert [book["pruned"] for book in run_json("verify", "--home", home)["ledgers"]] == [0, 0]
    balance = run_json("balance", "--home", home)

    said = run("prune", "--home", home, "--receipt", shown["receipt"])

    assert said.output == "node: 1 receipts erased\n"
    assert [book["pruned"] for book in run_json("verify", "--home", home)["ledgers"]] == [1, 0]
    assert "the receipt was pruned" in run("verify", "--home", home).output
    assert run_json("balance", "--home", home) == balance
    again = run("prune", "--home", home, "--receipt", shown["receipt"])
    assert (type(again.exception), again.exception.exit_code) == (UsageError, 2)


@pytest.mark.parametrize("receipt", ["zz", "00ff00ff00ff"])
def test_an_unknown_receipt_is_a_usage_error(home, receipt):
    assert isinstance(run("prove", receipt, "--home", home).exception, UsageError)


def test_the_ledger_loads_no_torch_no_numpy_and_no_network():
    code = (
        "import ledger, ledger.cli, sys; "
        "heavy = ('torch', 'grpc', 'asyncio', 'transformers', 'numpy');"
        "print([m for m in heavy if m in sys.modules])"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "line",
    [
        ["export", "csv", "--month", "9999-12"],
        ["export", "focus", "--credit-is", "1e-99999999 USD"],
        ["migrate", "--to", "postgresql://u:secret phrase@[::1/x"],
        ["prove", ""],
    ],
)
def test_what_nobody_can_mean_is_refused_in_words_at_once_and_shows_no_password(home, line):
    ended = run(*line, "--home", home)

    assert isinstance(ended.exception, ManyhandsError | SystemExit | None), ended.exception
    assert "secret" not in f"{ended.exception} {ended.output}"
