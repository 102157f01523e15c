"""`manyhands demo`: a tour that ends by itself, and fails if anything it shows does not hold.

In: how many spans, a seed. Out: a swarm of real processes in which every span has two hosts, an
answer, the same answer while a node is killed in the middle, and the books of all parties. It
exits with 0 only if the answers are equal, the kill was survived and every ledger holds.
"""

import asyncio
import json
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manyhands.asking import Ask, open_client
from manyhands.generate import stream
from manyhands.home import Home
from manyhands.local import LocalNode, LocalSwarm, even_split
from manyhands.loops import run
from manyhands.models import TINY, Model, find_model
from manyhands.reckoning import Reckoning, reckon
from manyhands.signals import interruptible
from protocol.errors import IntegrityError, PeerUnreachable

if TYPE_CHECKING:
    from scheduler.client import Client
    from scheduler.request import Event, GenerationRequest, GenerationResult

PROMPT = "Tell me a story about a girl named Zoe."
MAX_TOKENS = 120
PRICE_PER_MTL = 100_000_000_000  # dear enough that an answer takes several vouchers
KNOWN_S = 10.0  # for all nodes to hear of each other
MAX_KILLS = 3
NCR_PER_CREDIT = 10**9


@click.command(short_help="A tour that ends by itself: answer, kill, proof.")
@click.option("--nodes", type=click.IntRange(min=1), default=3, help="Spans; each gets two hosts.")
@click.option("--seed", type=int, help="Decides who is killed, and when. Default: drawn.")
@click.option("--prompt", default=PROMPT, metavar="TEXT", help="What to ask.")
@click.option("--model", default=TINY, metavar="MODEL", help="Default: tiny.")
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    help="Keep keys, ledgers and logs here. Default: a temporary place.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; tell on stderr.")
def demo(
    nodes: int, seed: int | None, prompt: str, model: str, home: Path | None, as_json: bool
) -> None:
    """See a swarm start, answer, lose a node, and prove who did what. Takes about a minute."""
    tour = Tour(to_stderr=as_json, seed=secrets.randbits(16) if seed is None else seed)
    found = find_model(model)
    spans = even_split(found.manifest.n_blocks, nodes)
    with _place(home) as place:
        swarm = LocalSwarm(
            model, spans * 2, place.root / "swarm", price_per_mtl=PRICE_PER_MTL, threads=1
        )
        view = run(tour.through(place, swarm, found, prompt))
        tour.check(place, swarm, view)
    tour.conclude(view, kept=home)
    if as_json:
        click.echo(json.dumps(view))


@contextmanager
def _place(home: Path | None) -> Iterator[Home]:
    """Where it all happens; a temporary place is kept only when something did not hold."""
    if home is not None:
        yield Home.at(home)
        return
    directory = Path(tempfile.mkdtemp(prefix="manyhands-demo-"))
    try:
        yield Home.at(directory)
    except Exception:
        click.echo(f"keys, ledgers and logs are kept in {directory}", err=True)
        raise
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)


class Tour:
    """The acts of the demo, and what they tell."""

    def __init__(self, *, to_stderr: bool, seed: int) -> None:
        self.seed = seed
        self._rng = random.Random(seed)
        self._to_stderr = to_stderr
        self._killed: list[LocalNode] = []
        self._began_s = time.monotonic()

    async def through(
        self, place: Home, swarm: LocalSwarm, model: Model, prompt: str
    ) -> dict[str, Any]:
        """Everything that needs a running swarm."""
        with interruptible():
            self._title(f"{len(swarm.nodes)} nodes come up, two for each span of {model.name}")
            async with (
                swarm.running(self._tell_ready),
                open_client(place, swarm.addresses) as client,
            ):
                await _all_known(client, len(swarm.nodes))
                return await self._answers(client, swarm, model, prompt)
        raise AssertionError("an interrupted tour raises")

    async def _answers(
        self, client: "Client", swarm: LocalSwarm, model: Model, prompt: str
    ) -> dict[str, Any]:
        from protocol.text import Tokenizer

        tokenizer = Tokenizer.from_directory(model.directory)
        ids = (
            tokenizer.encode_chat([{"role": "user", "content": prompt}])
            if tokenizer.chat_template
            else tokenizer.encode(prompt)
        )
        request = Ask(max_tokens=MAX_TOKENS, seed=self.seed).request(model, ids, tokenizer)

        self._title(f"An answer to {prompt!r}")
        calm = await stream(client, request, self._tell_text)
        self._tell_speed(calm, swarm)
        hurt, at_token = await self._with_a_kill(client, swarm, request, len(calm.token_ids))
        self._tell_speed(hurt, swarm)
        return self._compare(calm, hurt, at_token)

    async def _with_a_kill(
        self, client: "Client", swarm: LocalSwarm, request: "GenerationRequest", n_tokens: int
    ) -> tuple["GenerationResult", int]:
        """The same request while a hop of its route dies; again if the kill came too late."""
        from scheduler.request import Routed, Token

        for _ in range(MAX_KILLS):
            at_token = self._rng.randint(n_tokens // 5, n_tokens // 2)
            draw = self._rng.random()
            self._title(
                f"The same again, and one hop dies by SIGKILL at token {at_token} "
                f"(seed {self.seed})"
            )
            route: list[LocalNode] = []
            fallen: list[LocalNode] = []

            def show(
                event: "Event",
                at_token: int = at_token,
                draw: float = draw,
                route: list[LocalNode] = route,
                fallen: list[LocalNode] = fallen,
            ) -> None:
                if isinstance(event, Routed):
                    route[:] = [n for s in event.route if (n := swarm.by_peer(s.peer)) is not None]
                self._tell_text(event)
                if isinstance(event, Token) and event.index == at_token and not fallen:
                    victim = sorted(route, key=lambda node: node.span)[int(draw * len(route))]
                    swarm.kill(victim)
                    fallen.append(victim)
                    self._out(click.style(f" ✂ {_name(victim)} killed ✂ ", fg="red", bold=True))

            result = await stream(client, request, show)
            self._killed += fallen
            if result.failovers:
                return result, at_token
            self._tell("(it was too late: every token had been drawn already)")
        raise IntegrityError("no kill hit an answer under way", hint="try another --seed")

    def _compare(
        self, calm: "GenerationResult", hurt: "GenerationResult", at_token: int
    ) -> dict[str, Any]:
        if calm.token_ids != hurt.token_ids:
            first = next(
                (i for i, pair in enumerate(zip(calm.token_ids, hurt.token_ids, strict=False))
                 if pair[0] != pair[1]),
                min(len(calm.token_ids), len(hurt.token_ids)),
            )  # fmt: skip
            raise IntegrityError(
                f"the two answers differ from token {first} on (seed {self.seed})",
                hint="please report it, with the seed",
            )
        pause_ms = max(hurt.pauses_ms, default=0.0)
        self._tell(
            f"The kill cost a pause of {pause_ms:.0f} ms. Both answers are the same "
            f"{len(hurt.token_ids)} tokens."
        )
        return {
            "schema": "manyhands/demo/v1",
            "seed": self.seed,
            "undisturbed": calm.to_json(),
            "disturbed": hurt.to_json(),
            "killed": [node.address.peer_id for node in self._killed],
            "at_token": at_token,
            "pause_ms": round(pause_ms, 1),
            "equal": True,
        }

    def check(self, place: Home, swarm: LocalSwarm, view: dict[str, Any]) -> None:
        """The books, after everybody has left.

        Raises:
            IntegrityError: something does not hold.
        """
        self._title("The books of all parties")
        result = reckon(
            place.client,
            [(_name(node), node.home.node) for node in swarm.nodes],
            killed=[_name(node) for node in self._killed],
        )
        self._tell_statement(result)
        if not result.holds:
            raise IntegrityError(
                f"the books do not hold: {'; '.join(result.failures)}",
                hint=f"look closer: manyhands ledger verify --home {place.root}",
            )
        view["parties"] = [party.to_json() for party in result.parties]
        view["verified"] = {
            "ledgers": len(result.parties),
            "receipts": result.n_receipts,
            "signatures": result.n_signatures,
            "proofs": result.n_proofs,
        }

    def conclude(self, view: dict[str, Any], *, kept: Path | None) -> None:
        verified, pause_ms = view["verified"], view["pause_ms"]
        n_tokens = len(view["disturbed"]["token_ids"])
        books = f" --home {kept}" if kept else ""
        self._title("Try next")
        self._tell("  manyhands up                     a swarm that stays, and then")
        self._tell("  manyhands chat tiny              talk with it, in another terminal")
        self._tell("  manyhands serve MODEL            lend this machine to others")
        self._tell(f"  manyhands ledger verify{books or ' --home DIR':<10} check any party's books")
        self._title("Verified")
        self._good(f"{n_tokens} tokens, equal with and without the loss of a node")
        self._good(f"the loss cost a pause of {pause_ms:.0f} ms, no token lost, none repeated")
        self._good(
            f"{verified['ledgers']} ledgers hold: {verified['receipts']} receipts, "
            f"{verified['signatures']} signatures, all amounts, {verified['proofs']} proofs"
        )
        took_s = time.monotonic() - self._began_s
        self._good(f"what the client owes is what the nodes earned; all in {took_s:.0f} s")

    # --- telling ----------------------------------------------------------------------------------

    def _tell_ready(self, node: LocalNode) -> None:
        self._tell(
            f"  {_name(node):<8} {_short(node.address.peer_id)}  blocks {node.span!s:<6} "
            f"ready in {node.ready_s:.1f} s"
        )

    def _tell_text(self, event: "Event") -> None:
        from scheduler.request import Token

        if isinstance(event, Token) and event.text:
            self._out(event.text)

    def _tell_speed(self, result: "GenerationResult", swarm: LocalSwarm) -> None:
        speed = 1000 / result.tpot_ms if result.tpot_ms else 0.0
        hops = []
        for step in result.route:
            node = swarm.by_peer(step.peer)
            name = _name(node) if node else _short(step.peer)
            hops.append(f"{name} {step.span} {step.run_ms:.1f} ms")
        self._tell("")
        self._tell(
            f"{len(result.token_ids)} tokens, {speed:.1f} tokens/s, "
            f"first after {result.ttft_ms:.0f} ms; per hop: {' → '.join(hops)}"
        )

    def _tell_statement(self, result: Reckoning) -> None:
        self._tell(f"  {'party':<9}{'tabs':>5}{'token·blocks':>14}{'earned':>14}{'spent':>14}")
        for party in result.parties:
            earned, spent = (
                f"{amount / NCR_PER_CREDIT:.6f}" for amount in (party.earned_ncr, party.spent_ncr)
            )
            self._tell(
                f"  {party.name:<9}{party.n_tabs:>5}{party.token_blocks:>14}{earned:>14}{spent:>14}"
            )

    def _title(self, text: str) -> None:
        self._tell("")
        self._tell(click.style(text, bold=True))

    def _good(self, text: str) -> None:
        self._tell(click.style("✓ ", fg="green") + text)

    def _tell(self, line: str) -> None:
        click.echo(line, err=self._to_stderr)

    def _out(self, text: str) -> None:
        click.echo(text, nl=False, err=self._to_stderr)


async def _all_known(client: "Client", n_nodes: int) -> None:
    """Wait until the swarm knows all its nodes.

    Raises:
        PeerUnreachable: it does not, within a time that is ample on one machine.
    """
    until_s = time.monotonic() + KNOWN_S
    while len((await client.directory()).live()) < n_nodes:
        if time.monotonic() > until_s:
            raise PeerUnreachable("", "the nodes do not hear of each other", hint="run it again")
        await asyncio.sleep(0.1)


def _name(node: LocalNode) -> str:
    return f"node {node.index + 1}"


def _short(peer_id: str) -> str:
    return f"{peer_id[:8]}…{peer_id[-6:]}"
