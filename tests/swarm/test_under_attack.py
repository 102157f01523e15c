"""Ten nodes and three clients of a granted swarm under load, with one of each adversary.

What must hold then: answers, equal books on all nodes, credit conserved, each fault named with its
evidence, every ledger green, exports that come to the same balances. All are real processes.
"""

import json
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.fold import Books
from tests.cli.command import Ended, manyhands
from tests.swarm.granted_lab import Lab, Party

pytestmark = [pytest.mark.swarm, pytest.mark.slow]

FRONT, BACK = "0:4", "4:8"
CREDIT_NCR = 10**10
UNTIL_S = 180

INFLATES = """
import ledger.tab
from dataclasses import replace
stated = ledger.tab.ProviderTab.make_statement
def more(self, meter, **rest):
    return stated(self, replace(meter, decode_tl=meter.decode_tl + 1), **rest)
ledger.tab.ProviderTab.make_statement = more
"""
COMPUTES_SOMETHING_ELSE = """
import ledger.opening
from node.engine import ShardEngine
step, propose, asked = ShardEngine.step, ledger.opening.propose_terms, []
def proposing(*args, **more):
    asked.append(True)  # by then the self-test, which finds it, is over
    return propose(*args, **more)
def other(self, items):
    results = step(self, items)
    for result in results:
        if asked and result.hidden is not None:
            result.hidden = result.hidden.roll(1, -1)
    return results
ShardEngine.step, ledger.opening.propose_terms = other, proposing
"""
STOPS_PAYING = """
import ledger.tab
signed = ledger.tab.PayerTab.make_voucher
def first_alone(self, derived, **rest):
    return self._voucher_envelope or signed(self, derived, **rest)
ledger.tab.PayerTab.make_voucher = first_alone
"""
PROMISES_TWICE = """
from ledger.wallet import Wallet
Wallet.available = lambda self, asset: 10**15
"""
SIGNS_ANOTHER_VERSION = """
from ledger.cosigning import Cosigned
from ledger.spend_words import PUBLISH, Known, Published
from node import hearing
from ledger.checkpoint import Checkpoint
from ledger.notes import Note
from manyhands.crediting.desk import Desk
from manyhands.crediting.panel import Panel
async def nobody(self, log):
    note = log.checkpoint()  # None: it has no entry yet, and asks what time it is
    return Cosigned(note and Checkpoint.parse(Note.parse(note).text), (), bool(note))
async def all_of_it(connection, own):
    told = Published(own.account, own.checkpoint(), 0, tuple(own.leaves()))
    return Known.decode(await connection.call(PUBLISH, told.encode(), timeout_s=10))
hearing.publish = all_of_it
Panel.check = Panel.cosign = nobody
Desk._learn = lambda *_: None
"""

FLOODS = """
import json
from secrets import token_bytes
from ledger.checkpoint import Checkpoint, origin
from ledger.fault_words import Asked
from ledger.forks import Side, fork_fault
from ledger.judging import double_seq_fault
from ledger.meter import Meter
from ledger.objects import Voucher
from ledger.spend_words import FAULT, LOG, PUBLISH, WITNESS, Published, Wanted
from manyhands.crediting.desk import Desk
from protocol.canonical import encode
from protocol.errors import ManyhandsError
from protocol.signing import SigningKey
def forked(key, swarm):
    name = origin(swarm, key.public_key, 'spend')
    sides = [Side(Checkpoint(name, 1, bytes([n]) * 32).sign(key)) for n in (1, 2)]
    return fork_fault(key.public_key, swarm, *sides)
def twice(key, swarm):
    said = [Voucher(session_id=bytes(16), terms_oid=bytes(32), seq=1, meter=Meter(n), amount=n,
        statement_oid=bytes(32), issued_ms=1).seal(swarm, key) for n in (1, 2)]
    return double_seq_fault(key.public_key, *said, swarm).seal(swarm, key)
def unsigned(key, swarm):
    note = Checkpoint(origin(swarm, key.public_key, 'spend'), 1, bytes(32)).sign(key)
    return Published(key.public_key, note, 0, (token_bytes(300),)).encode()
async def flood(self):
    swarm, asked, refused = self.party.swarm_id, 0, 0
    for connection in await self.meeting._nodes():
        for _ in range(60):
            key = SigningKey.generate()
            for method, body in (
                (FAULT, encode(forked(key, swarm).to_fields())),
                (PUBLISH, unsigned(key, swarm)),
                ('faults', Asked(told=(twice(key, swarm),)).encode()),
                ('objects', encode(('settlements', [token_bytes(32)] * 256))),
                (LOG, Wanted(key.public_key, 'parting').encode()),
                *((name, token_bytes(3000)) for name in
                    (FAULT, PUBLISH, WITNESS, 'faults', 'reconcile', 'settle', 'owing')),
            ):
                asked += 1
                try:
                    await connection.call(method, body, timeout_s=10)
                except ManyhandsError:
                    refused += 1
    print('flooded', json.dumps([asked, refused]))
    return None, ()
Desk.sync = flood
"""


def generate(party: Party, n: int, tokens: int = 24, *more: object) -> Ended:
    return party.run(
        *("generate", "tiny", "--prompt", f"Once {n}", "--max-tokens", tokens, "--seed", n),
        *("--ignore-eos", "--json", "--wait", 60, *more),
        timeout_s=300,
    )


def at_once(works: Sequence[Callable[[], object]]) -> None:
    """Each on a thread; the first failure is raised."""
    failures: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def until(what: Callable[[], bool], timeout_s: float = UNTIL_S) -> None:
    limit_s = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < limit_s, f"not within {timeout_s:g} s"
        time.sleep(2)  # `what` asks processes, which set no event here


def shared(books: Books) -> Books:
    """What all have alike: how much tabs claim, each payee knows of its own allotments; of keys
    that have no log a fork is known to whom it was told."""
    return replace(
        books,
        allotted={oid: replace(made, claimed=0) for oid, made in books.allotted.items()},
        forked=books.forked & books.counted.keys(),
    )


def disputes(party: Party) -> dict[str, set[str]]:
    """Who is accused at a home: of showing two logs, or of something else."""
    told = party.here("ledger", "dispute", "list")
    return {name: {each["peer"] for each in told[name]} for name in ("disputes", "faults")}


def test_under_attack_credit_is_conserved_and_each_fault_has_its_evidence(tmp_path):
    lab = Lab.found(tmp_path)
    try:
        lab.founder.serve(FRONT)
        lab.founder.until_ready()
        invite = lab.invite(uses=20)
        faults = [INFLATES, COMPUTES_SOMETHING_ELSE, *[""] * 7]
        nodes = [lab.founder]
        for n, fault in enumerate(faults, 1):
            nodes.append(lab.join(f"node-{n}", invite, fault))
        for n, node in enumerate(nodes[1:], 1):
            node.serve(BACK if n % 2 else FRONT)
        for node in nodes[1:]:
            node.until_ready()
        clients = [lab.join(f"client-{n}", invite) for n in range(3)]
        stingy = lab.join("stingy", invite, STOPS_PAYING)
        twice = lab.join("twice", invite, PROMISES_TWICE)
        forker = lab.join("forker", invite)
        flooder, restored = lab.join("flooder", invite, FLOODS), lab.join("restored", invite)
        for party in (*clients, stingy, twice, forker, flooder, restored):
            lab.grant(party, f"{CREDIT_NCR}ncr")
        _story(lab, nodes, clients, stingy, twice, forker, flooder, restored)
    finally:
        lab.stop()
    _balances(nodes, len(lab.parties) - len(nodes))
    for party in lab.parties:
        checked = manyhands("ledger", "verify", "--home", party.place, timeout_s=120)
        assert checked.code == 0, (party.home.name, checked.out, checked.err)
    for party in (*clients, *nodes):
        _export_comes_to_the_same(party, tmp_path)


def _story(
    lab: Lab,
    nodes: list[Party],
    clients: list[Party],
    stingy: Party,
    twice: Party,
    forker: Party,
    flooder: Party,
    restored: Party,
) -> None:
    inflating, wrong = nodes[1], nodes[2]

    def use(client: Party, first: int) -> Callable[[], None]:
        def works() -> None:
            for n in range(first, first + 4):
                answered = generate(client, n)
                assert answered.code == 0, answered.err
                assert len(json.loads(answered.out)["token_ids"]) == 24

        return works

    def be_stingy() -> None:
        cut = generate(stingy, 90, 200)
        assert cut.code != 0, cut.out
        assert "Traceback" not in cut.err

    def promise_twice() -> None:
        """More to each than there is credit for: what comes second funds nothing."""
        for node in (nodes[3], nodes[4]):
            twice.run("ledger", "allot", node.node, f"{CREDIT_NCR * 3 // 4}ncr")

    def fork() -> None:
        fine = forker.run("ledger", "allot", nodes[5].node, "1000ncr")
        assert fine.code == 0, fine.err
        old = Party(lab.directory / "forker-old", SIGNS_ANOTHER_VERSION)
        shutil.copytree(forker.home, old.home)
        for name in ("spend.sqlite", "spend.checkpoint", "spending.sqlite"):
            (old.place / "client" / name).unlink(missing_ok=True)
        signed = old.run("ledger", "allot", nodes[6].node, "999ncr")
        assert signed.code == 0, signed.err

    def flood() -> None:
        """What everybody can make, in every call that takes something: it is refused, or ends."""
        ended = flooder.run("ledger", "sync", timeout_s=280)
        said = [line for line in ended.out.splitlines() if line.startswith("flooded")]
        assert said, ended.err
        asked, refused = json.loads(said[0].removeprefix("flooded"))
        assert refused > asked // 2

    def put_an_old_home_back() -> None:
        """Its witnesses remember more than it does: it signs nothing until the newest is back."""
        newest, old = lab.directory / "newest", lab.directory / "oldest"
        for place, amount in ((old, 1000), (newest, 2000)):
            fine = restored.run("ledger", "allot", nodes[5].node, f"{amount}ncr")
            assert fine.code == 0, fine.err
            shutil.copytree(restored.home, place)
        shutil.rmtree(restored.home)
        shutil.copytree(old, restored.home)
        refused = restored.run("ledger", "allot", nodes[6].node, "3000ncr")
        assert (refused.code, "a witness signed 2" in refused.err) == (8, True), refused.err
        shutil.rmtree(restored.home)
        shutil.copytree(newest, restored.home)
        again = restored.run("ledger", "allot", nodes[6].node, "3000ncr")
        assert again.code == 0, again.err

    # Load, and those who cheat on credit, all at the same time.
    at_once(
        [
            *(use(client, 10 * n) for n, client in enumerate(clients)),
            be_stingy,
            promise_twice,
            fork,
            flood,
            put_an_old_home_back,
        ]
    )
    until(lambda: all(forker.client in disputes(node)["disputes"] for node in nodes))

    # Who claims one unit too many is cut, and on record with whoever met it.
    generate(clients[0], 50, 24, "--require", inflating.node)
    told = clients[0].here("ledger", "dispute", "tabs", "--role", "client")["ledgers"]
    assert inflating.node in {tab["peer"] for each in told for tab in each["tabs"]}
    # Who computes something else is found by asking like anybody else.
    audited = clients[1].run(
        *("ledger", "audit", "run", "tiny", "--canaries", 6, "--rate", 100),
        *("--peer", wrong.node, "--json"),
        timeout_s=600,
    )
    assert audited.code == 0, audited.err
    assert wrong.node in disputes(clients[1])["faults"], audited.out


def _balances(nodes: list[Party], n_clients: int) -> None:
    kept = [shared(node.books()) for node in nodes]
    assert all(books == kept[0] for books in kept[1:])
    books = kept[0]
    assert len(books.available) >= n_clients
    held = sum(made.held for made in books.allotted.values())
    assert sum(books.available.values()) + held == 8 * CREDIT_NCR


def _export_comes_to_the_same(party: Party, scratch: Path) -> None:
    out = scratch / f"{party.home.name}.jsonl"
    for role in ("client", "node"):
        own = manyhands("ledger", "balance", "--home", party.place, "--role", role, "--json")
        if own.code or not json.loads(own.out)["ledgers"]:
            continue  # it never was one
        ended = manyhands(
            *("ledger", "export", "jsonl", "--home", party.place, "--role", role, "--out", out)
        )
        assert ended.code == 0, ended.err
        again = manyhands("ledger", "balance", "--file", out, "--json")
        told = [json.loads(each.out)["ledgers"][0]["balances"] for each in (own, again)]
        assert told[0] == told[1]
        out.unlink()
