"""`manyhands demo`: a tour that ends by itself, and fails if anything it shows does not hold.

In: how many spans, a seed. Out: the story on stdout, and an exit code: 0 only if the answer was the
same with and without the loss of a node, and every party's ledger holds. The acts are `tour.py`'s.
"""

import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from manyhands.fetching import bring_weights
from manyhands.home import Home
from manyhands.licences import require_accepted
from manyhands.local import LocalSwarm, even_split
from manyhands.loops import run
from manyhands.models import TINY, find_model
from manyhands.options import accept_licence_option
from manyhands.party import open_party
from manyhands.telling import Teller
from manyhands.tour import Tour

PROMPT = "Tell me a story about a girl named Zoe."
PRICE_PER_MTL = 100_000_000_000  # dear enough that an answer takes several vouchers


@click.command(short_help="A tour that ends by itself: answer, kill, proof.")
@click.option("--nodes", type=click.IntRange(min=1), default=3, help="Spans; each on two nodes.")
@click.option("--seed", type=int, help="Decides who is killed, and when. Default: drawn.")
@click.option("--prompt", default=PROMPT, metavar="TEXT", help="What to ask.")
@click.option("--model", default=TINY, metavar="MODEL", help="Default: tiny.")
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    help="Keep keys, ledgers and logs here. Default: a temporary place.",
)
@accept_licence_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; tell on stderr.")
def demo(
    nodes: int,
    seed: int | None,
    prompt: str,
    model: str,
    home: Path | None,
    accept_licence: bool,
    as_json: bool,
) -> None:
    """See a swarm start, answer, lose a node, and prove who did what, in about a minute."""
    began_s = time.monotonic()
    found = find_model(model)
    spans = even_split(found.manifest.n_blocks, nodes)
    teller = Teller(to_stderr=as_json)
    tour = Tour(teller, secrets.randbits(16) if seed is None else seed)
    with _place(home) as place:
        require_accepted(place, found.manifest, accepts=accept_licence)
        bring_weights(found, found.manifest.tensors, party=open_party(place, "client"))
        swarm = LocalSwarm(
            model, spans * 2, place.root / "swarm", price_per_mtl=PRICE_PER_MTL, threads=1
        )
        view = run(tour.through(place, swarm, found, prompt))
        view |= tour.check(place, swarm)
    view["took_s"] = round(time.monotonic() - began_s, 1)
    _conclude(teller, view, home)
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


def _conclude(teller: Teller, view: dict[str, Any], home: Path | None) -> None:
    teller.title("Try next")
    for command, why in (
        ("manyhands up", "a swarm that stays, until Ctrl-C; then, in another terminal:"),
        ("manyhands chat", "talk with it"),
        ("manyhands serve MODEL --join ADDR", "lend this machine to a swarm"),
        (f"manyhands ledger verify --home {home or 'DIR'}", "check any party's books yourself"),
    ):
        teller.line(f"  {command:<36} {why}")
    verified = view["verified"]
    teller.title("Verified")
    teller.good(
        f"{len(view['disturbed']['token_ids'])} tokens, the same with and without the loss of a "
        f"node, which cost {view['pause_ms']:.0f} ms"
    )
    teller.good(
        f"{verified['ledgers']} ledgers: {verified['receipts']} receipts, "
        f"{verified['signatures']} signatures, every amount, {verified['proofs']} proofs"
    )
    teller.good(f"what the client owes is what the nodes earned; all in {view['took_s']:.0f} s")
