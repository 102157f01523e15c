"""A granted swarm of real processes, some of them with a fault in their code.

A dishonest party is a process of its own that runs our program with one function replaced: it says
on the public protocol what somebody would who changed that line, and nobody else is told.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger.fold import Books
from ledger.spend_books import SpendBooks
from ledger.swarms import policy_at, swarm_of
from manyhands.home import Home, open_identity
from tests.cli.command import Ended, environment, manyhands, until_answered

SWARM = "lab"
PRICE = 100_000_000_000  # ncr for a million token-layers: a window of ten million is 100 of them


@dataclass
class Party:
    """A home that is a member. faulty: Python that is run before our program, in its process."""

    home: Path
    faulty: str = ""
    process: "subprocess.Popen[str] | None" = None

    @property
    def place(self) -> Path:
        return self.home / "swarms" / SWARM

    @property
    def node(self) -> str:
        return open_identity(Home(self.place).node).peer_id

    @property
    def client(self) -> str:
        return open_identity(Home(self.place).client).peer_id

    def run(self, *arguments: object, timeout_s: float = 180) -> Ended:
        """`manyhands …` as this party, to its end."""
        line = [*arguments, "--home", self.home, "--swarm", SWARM]
        if not self.faulty:
            return manyhands(*line, timeout_s=timeout_s)
        done = subprocess.run(
            self._faulty(line), capture_output=True, text=True, timeout=timeout_s, env=environment()
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def told(self, *arguments: object) -> Any:
        """What a command says as JSON."""
        ended = until_answered(lambda: self.run(*arguments, "--json"))
        assert ended.code == 0, (arguments, ended.err)
        return json.loads(ended.out)

    def here(self, *arguments: object) -> Any:
        """What a command that looks at this home alone says as JSON."""
        ended = manyhands(*arguments, "--home", self.place, "--json", timeout_s=120)
        assert ended.code == 0, (arguments, ended.err)
        return json.loads(ended.out)

    def serve(self, span: str) -> None:
        line = [
            *("serve", "tiny", "--span", span, "--home", self.home, "--swarm", SWARM),
            *("--listen", "127.0.0.1:0", "--kv-cache", "64MiB", "--threads", 1, "--drain", 2),
            *("--price-per-mtl", PRICE, "--page", "off"),
        ]
        self.process = subprocess.Popen(
            self._faulty(line)
            if self.faulty
            else [sys.executable, "-m", "manyhands", *map(str, line)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(self.home / "serve.log").open("w"),
            text=True,
            env=environment(OMP_WAIT_POLICY="passive"),
        )

    def until_ready(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), (self.home / "serve.log").read_text()

    def books(self, role: str = "node") -> Books:
        """What its books say while no process of it runs."""
        swarm_id, witnesses = swarm_of(self.place)[0], policy_at(self.place).quorum()
        with SpendBooks.open(self.place / role, swarm_id, witnesses) as books:
            return books.books()

    def _faulty(self, line: Sequence[object]) -> list[str]:
        program = f"{self.faulty}\nfrom manyhands.cli import main\nmain()\n"
        return [sys.executable, "-c", program, *map(str, line)]


@dataclass
class Lab:
    """Use `found`, and `stop` in the end."""

    directory: Path
    founder: Party
    parties: list[Party] = field(default_factory=list)

    @classmethod
    def found(cls, directory: Path) -> "Lab":
        founder = Party(directory / "founder")
        made = manyhands(
            *("swarm", "create", SWARM, "--private", "--funding", "granted"),
            *("--home", founder.home),
        )
        assert made.code == 0, made.err
        return cls(directory, founder, [founder])

    def invite(self, uses: int) -> str:
        """Once the founder's node runs."""
        return str(self.founder.run("swarm", "invite", "--uses", uses).out.strip())

    def join(self, name: str, invite: str, faulty: str = "") -> Party:
        party = Party(self.directory / name, faulty)
        joined = manyhands("swarm", "join", invite, "--home", party.home, timeout_s=120)
        assert joined.code == 0, joined.err
        self.parties.append(party)
        return party

    def grant(self, party: Party, amount: str) -> None:
        granted = self.founder.run("ledger", "grant", party.client, amount, "--json")
        assert granted.code == 0, granted.err

    def stop(self) -> None:
        running = [party.process for party in self.parties if party.process is not None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
