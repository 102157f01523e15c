"""Witnesses as processes over HTTP: logs get quorums from them, and liars get refusals."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import httpx2
import pytest

from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import Witness, Witnesses
from ledger.errors import BadProof
from ledger.notes import COSIGNATURE_V1, ED25519, NoteKey, parse_lines
from ledger.spend_books import SpendBooks
from ledger.spend_log import SpendLog
from ledger.witness import MAX_REQUEST_BYTES, AddCheckpoint, WitnessBook
from ledger.witness_http import answer
from manyhands.gateway.serving import listening
from manyhands.witnessing.app import WitnessApp
from protocol.identity import peer_id_from_public_key
from protocol.key_files import write_new_key
from tests.ledger.spenders import ANN, ASSET, BEN, CY, ISSUER, SWARM, WITNESSES, allot, grant

ROOT = Path(__file__).parents[2]
LOGS = {origin(SWARM, key.public_key, "spend"): key.public_key for key in (ISSUER, ANN)}


@contextmanager
def service(home, *arguments):
    """`manyhands ledger witness serve` as a process; its url and key."""
    command = ["ledger", "witness", "serve", "--port", "0", "--home", str(home), *arguments]
    process = subprocess.Popen(
        [sys.executable, "-m", "manyhands", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        ready = json.loads(process.stdout.readline())
        yield ready["url"], NoteKey.parse(ready["vkey"]), process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        process.stdout.close()


def post(url, request):
    return httpx2.post(f"{url}/add-checkpoint", content=request.encode(), timeout=30)


@pytest.mark.slow
def test_a_log_gets_its_cosignature_from_a_process_and_again_after_kill_9(tmp_path):
    names = ("--name", "w.example", "--account", peer_id_from_public_key(ANN.public_key))
    with SpendLog.open(tmp_path / "ann", ANN, SWARM) as log:
        log.append(*(allot(ANN, BEN, 5, no=i) for i in range(3)))
        with service(tmp_path / "w", *names) as (url, key, process):
            assert (key.name, key.kind) == ("w.example", COSIGNATURE_V1)
            told = post(url, log.request(0))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()

        witnesses = Witnesses.of(Witness(key.name, key.public_key))
        cosigned = log.add_cosignatures(parse_lines(told.text), witnesses)
        assert (told.status_code, cosigned.head.size, cosigned.has_quorum) == (200, 3, True)

        log.append(allot(ANN, CY, 5))
        with service(tmp_path / "w", *names[2:]) as (url, again, _):  # its name it knows itself
            assert again == key
            behind = post(url, log.request(0))
            assert (behind.status_code, behind.text) == (409, "3\n")
            assert behind.headers["content-type"] == "text/x.tlog.size"
            caught_up = post(url, log.request(int(behind.text)))
            assert log.add_cosignatures(parse_lines(caught_up.text), witnesses).has_quorum

            stranger = Checkpoint(origin(SWARM, BEN.public_key, "spend"), 1, bytes(32)).sign(BEN)
            assert post(url, AddCheckpoint(0, (), stranger)).status_code == 404
            assert httpx2.get(f"{url}/add-checkpoint").status_code == 405
            assert httpx2.post(f"{url}/elsewhere").status_code == 404
            big = httpx2.post(f"{url}/add-checkpoint", content=bytes(MAX_REQUEST_BYTES + 1))
            assert big.status_code == 413


async def _ask(http, url, log):
    """As logs do: from the size that the witness says it signed last."""
    response = await http.post(f"{url}/add-checkpoint", content=log.request(0).encode())
    if response.status_code == 409:
        request = log.request(int(response.text))
        response = await http.post(f"{url}/add-checkpoint", content=request.encode())
    return response


async def test_28_of_two_versions_shown_to_four_witnesses_over_http_one_counts(tmp_path):
    """Ann shows half of the witnesses one log and half of them another, over real sockets."""
    books = [
        WitnessBook.open(tmp_path / f"w{i}", f"w{i}.example", key, LOGS.get)
        for i, key in enumerate(WITNESSES)
    ]
    witnesses = Witnesses.of(*(book.witness for book in books))
    versions = []
    for payee in (BEN, CY):
        log = SpendLog.open(tmp_path / payee.public_key.hex(), ANN, SWARM)
        log.append(allot(ANN, payee, 60))
        versions.append(log)
    issuer = SpendLog.open(tmp_path / "issuer", ISSUER, SWARM)
    issuer.append(grant(ANN, 100))

    verdicts = []
    async with httpx2.AsyncClient(timeout=30) as http:
        for log, order in ((versions[0], books[:3]), (versions[1], books[1:]), (issuer, books)):
            lines = []
            for book in order:
                async with listening(WitnessApp(book), "127.0.0.1", 0) as port:
                    response = await _ask(http, f"http://127.0.0.1:{port}", log)
                if response.status_code == 200:
                    lines += parse_lines(response.text)
                else:
                    assert response.status_code == 409
            verdicts.append(log.add_cosignatures(lines, witnesses).has_quorum)

    assert verdicts == [True, False, True]
    for home in ("one", "other"):  # every node sees the same winner
        with SpendBooks.open(tmp_path / home, SWARM, witnesses) as others:
            for log in (issuer, *versions)[:: 1 if home == "one" else -1]:
                with pytest.raises(BadProof) if log is versions[1] else nullcontext():
                    others.learn(log.account, log.checkpoint(), log.leaves())
            winners = [made.payee for made in others.books().allotted.values()]
            assert (winners, others.available(ANN.public_key, ASSET)) == ([BEN.public_key], 40)
    for each in (*books, *versions, issuer):
        each.close()


async def test_44_junk_costs_a_witness_no_signature_check(tmp_path):
    with WitnessBook.open(tmp_path, "w.example", WITNESSES[0], LOGS.get) as book:
        async with (
            listening(WitnessApp(book), "127.0.0.1", 0) as port,
            httpx2.AsyncClient(timeout=30) as http,
        ):
            url = f"http://127.0.0.1:{port}/add-checkpoint"
            junk = [b"", b"old 0\n\nx", os.urandom(1000), b"old 0\n\n" + b"x" * 5000]
            answers = await asyncio.gather(*(http.post(url, content=each) for each in junk * 10))
            assert {response.status_code for response in answers} <= {400, 503}
        assert book.seen() == []


def test_a_status_tells_what_was_signed(here, tmp_path):
    missing = here("ledger", "witness", "status", "--home", tmp_path)
    assert (missing.code, "witness serve" in missing.err) == (3, True)

    names = ("--name", "w.example", "--log", _vkey(ANN))
    with SpendLog.open(tmp_path / "ann", ANN, SWARM) as log:
        log.append(allot(ANN, BEN, 5))
        with service(tmp_path, *names) as (url, key, _):
            assert post(url, log.request(0)).status_code == 200

            told = json.loads(here("ledger", "witness", "status", "--json", "--home", tmp_path).out)

    assert told["logs"] == [{"origin": log.origin, "size": 1}]
    assert (told["name"], told["vkey"]) == ("w.example", key.vkey)


def test_a_home_that_can_be_none_and_a_key_that_stays_shut_are_explained(
    here, tmp_path, monkeypatch
):
    flags = ("--name", "w.example", "--any-account", "--port", "0")
    nowhere = here("ledger", "witness", "serve", *flags, "--home", "/dev/null")
    assert (nowhere.code, "cannot be made" in nowhere.err) == (3, True)

    with WitnessBook.open(tmp_path / "witness", "w.example", WITNESSES[0], LOGS.get):
        pass
    write_new_key(tmp_path / "witness" / "identity.key", WITNESSES[0], b"of mine", log2_n=4)
    shut = here("ledger", "witness", "status", "--home", tmp_path)
    monkeypatch.setenv("MANYHANDS_PASSPHRASE", "of mine")
    assert (shut.code, "needs a passphrase" in shut.err) == (3, True)
    assert here("ledger", "witness", "status", "--home", tmp_path).code == 0


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("serve --any-account", "--name"),
        ("serve --name w.example", "--account"),
        ("serve --name two+words --any-account", "name"),
        ("serve --name w --log rubbish", "verifier key"),
        ("serve --name w --account nobody", "peer id"),
        ("serve --name w --any-account --swarm xyz", "hexadecimal"),
    ],
)
def test_a_mistake_on_the_command_line_is_explained(here, tmp_path, line, word):
    refused = here("ledger", "witness", *line.split(), "--home", tmp_path)

    assert refused.code == 2
    assert word in refused.err


def test_a_witness_takes_so_many_new_logs_an_hour_and_goes_on_with_those_it_knows(tmp_path):
    opened = WitnessBook.open(
        tmp_path / "w", "w.example", WITNESSES[0], LOGS.get, max_new_logs_an_hour=1
    )
    with (
        opened as book,
        SpendLog.open(tmp_path / "ann", ANN, SWARM) as log,
        SpendLog.open(tmp_path / "issuer", ISSUER, SWARM) as other,
    ):
        log.append(allot(ANN, BEN, 5))
        other.append(grant(ANN, 5))

        answers = [
            answer(book, "POST", "/add-checkpoint", each.request(0).encode(), 0).status
            for each in (log, other)
        ]
        log.append(allot(ANN, CY, 5))
        grown = answer(book, "POST", "/add-checkpoint", log.request(1).encode(), 0)

        assert (answers, grown.status) == ([200, 503], 200)
        later = answer(book, "POST", "/add-checkpoint", other.request(0).encode(), 3600)
        assert later.status == 200  # full for an hour, not for ever


def _vkey(key):
    return NoteKey(origin(SWARM, key.public_key, "spend"), ED25519, key.public_key).vkey


def test_a_witness_that_lost_all_it_knew_but_its_key_is_not_begun_anew(here, tmp_path):
    """It may have signed anything: it would sign two versions of a log."""
    witness = tmp_path / "witness"
    with WitnessBook.open(witness, "w.example", WITNESSES[0], LOGS.get):
        pass
    (witness / "identity.key").write_text("a key")
    for lost in witness.glob("witness.*"):
        lost.unlink()

    line = ("ledger", "witness", "serve", "--name", "w.example", "--any-account")
    refused = here(*line, "--home", tmp_path)

    assert refused.code == 8
    assert "another name and key" in refused.err
