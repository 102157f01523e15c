"""`AutoDistributedModelForCausalLM`: a transformers model whose blocks are run by a swarm.

In: a model's directory or name, and an address of the swarm. Out: the family's own class with
embedding, norm and head loaded here, so that no peer sees a token, and its blocks with peers.
"""

import asyncio
import time
from collections.abc import Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.errors import SwarmIncomplete, UsageError

if TYPE_CHECKING:
    import torch

    from manyhands.home import Home
    from manyhands.models import Model
    from manyhands.portal import Portal
    from protocol.profile import Profile
    from scheduler.client import Client
    from scheduler.wanted import Limits

AGAIN_S = 0.2


class AutoDistributedModelForCausalLM:
    """Not to be made: `from_pretrained` gives the model."""

    def __init__(self) -> None:
        raise UsageError("AutoDistributedModelForCausalLM.from_pretrained(MODEL, join=[ADDR])")

    @classmethod
    def from_pretrained(
        cls,
        model: str | PathLike[str],
        *,
        join: Iterable[str] = (),
        home: str | PathLike[str] | None = None,
        dtype: "torch.dtype | str | None" = None,
        profile: str = "",
        channel: str = "stable",
        limits: "Limits | None" = None,
        timeout_s: float = 3600.0,
        wait_s: float = 10.0,
    ) -> Any:
        """The model, ready to `generate`.

        Args:
            model: `tiny`, a directory, or a name on the hub: the ends are read from there.
                MODEL:ADAPTER runs with an adapter that peers have loaded.
            join: addresses of the swarm; none: whoever serves on this home.
            home: where this client's key and ledger are.
            dtype: what peers must compute in, and the ends, too; None takes what is served.
            profile: the whole execution profile to require, such as `bfloat16/nf4/bfloat16`.
            channel: of models, where the swarm releases them: stable, candidate or dev.
            limits: who may run its blocks, by region, group, name and price; None: anybody.
            timeout_s: how long one session may last. wait_s: for blocks that nobody serves.

        Raises:
            NotPermitted, NotAccepted: the swarm says no, or asks for `manyhands models accept`.
            BadSignature: its files are not what their publisher signed.
            BadModel: the model is not here, or of a kind that cannot be served.
            PeerUnreachable, SwarmIncomplete: nobody runs its blocks.
        """
        from manyhands.governing.gate import require_signature, rules_of, terms_for
        from manyhands.home import Home
        from manyhands.models import find_model, split_adapter
        from manyhands.party import open_party
        from manyhands.portal import Portal
        from manyhands.running import join_addresses
        from protocol.address import Address

        name, adapter = split_adapter(str(model))
        found = find_model(name)
        place = Home.at(Path(home) if home is not None else None)
        require_signature(found, rules_of(open_party(place, "client")))
        _bring_ends(found, place)
        addresses = join_addresses(place, [Address.parse(text) for text in join])
        portal, terms = Portal(), terms_for(place, found.manifest)
        try:
            client = portal.call(portal.enter(_client(place, addresses, channel, terms)))
            return assemble(
                found,
                portal,
                client,
                wanted=profile or _named(dtype),
                adapter=adapter,
                limits=limits,
                timeout_s=timeout_s,
                wait_s=wait_s,
            )
        except BaseException:
            portal.close()
            raise


def assemble(
    model: "Model",
    portal: "Portal",
    client: "Client",
    *,
    wanted: str = "",
    adapter: str = "",
    limits: "Limits | None" = None,
    timeout_s: float = 3600.0,
    wait_s: float = 10.0,
) -> Any:
    """The model over a client that exists; `wanted` is a profile, a dtype, or empty."""
    from manyhands.distributed.blocks import RemoteBlocks, Swarm
    from manyhands.distributed.model import distributed
    from node.engine.ends import load_ends
    from node.engine.kv_layout import MAX_ROLLBACK
    from node.engine.pruning import text_config
    from scheduler.wanted import ANY_PEER

    manifest, limits = model.manifest, limits or ANY_PEER
    profile = portal.call(_profile(client, model, wanted, adapter, limits, wait_s))
    ends = load_ends(model.directory, profile.dtype, subclass=distributed)
    text = text_config(ends.model)
    swarm = Swarm(
        portal=portal,
        client=client,
        manifest=manifest.digest,
        model=model.asked,
        n_blocks=ends.n_blocks,
        hidden_size=int(text.hidden_size),
        max_positions=ends.max_positions,
        max_back=MAX_ROLLBACK if ends.forgets else None,
        profile=profile,
        adapter=adapter,
        limits=limits,
        timeout_s=timeout_s,
        wait_s=wait_s,
    )
    kinds = getattr(text, "layer_types", None) or ["full_attention"]
    blocks = RemoteBlocks(swarm, ends.owner, kinds[0])
    ends.put(blocks)
    blocks.learn(ends.owner)
    ends.model.begin(swarm, blocks, ends.owner)
    return ends.model


def _bring_ends(model: "Model", home: "Home") -> None:
    """Fetch embedding, norm and head of a model that came by name."""
    if model.store is None:
        return
    from manyhands.fetching import bring_weights
    from manyhands.party import open_party
    from node.engine.ends import ends_tensors

    tensors = ends_tensors(model.directory, model.manifest.tensors)
    bring_weights(model, tensors, party=open_party(home, "client"))


@asynccontextmanager
async def _client(home: Any, join: Any, channel: str, terms: Any) -> Any:
    from manyhands.asking import open_client

    async with open_client(home, join, channel, terms) as client:
        yield client


async def _profile(
    client: "Client", model: "Model", wanted: str, adapter: str, limits: "Limits", wait_s: float
) -> "Profile":
    """How a chain through all blocks would run now: the cheapest that is wanted.

    Raises:
        SwarmIncomplete: there is none, and none came within `wait_s`.
    """
    from protocol.profile import Profile
    from scheduler.routing import Wanted, find_routes

    anybody = Wanted(
        manifest=model.manifest.digest, n_blocks=model.manifest.n_blocks, limits=limits
    )
    until = time.monotonic() + wait_s
    while True:
        directory = await client.directory()
        if adapter:
            pinned = directory.pin_adapter(model.manifest.digest, adapter)
            anybody = replace(anybody, adapter=pinned)
        anybody = directory.judged(anybody)
        served = {peer.profile for peer in directory.hosts(model.manifest.digest)}
        fitting = [text for text in served if _fits(text, wanted)]
        routes = [
            route
            for text in fitting
            for route in find_routes(directory.live(), replace(anybody, profile=text), k=1)
        ]
        if routes:
            best = min(routes, key=lambda route: route.cost_ms)
            return Profile.parse(best.hops[0].announcement.profile)
        if time.monotonic() >= until:
            break
        await asyncio.sleep(AGAIN_S)
    if served and not fitting:
        raise SwarmIncomplete(
            [(0, model.manifest.n_blocks)],
            model=model.asked,
            hint=f"nobody runs it as {wanted}; served now: {', '.join(sorted(served))}",
        )
    directory.require_complete(anybody, model=model.asked)
    raise SwarmIncomplete([(0, model.manifest.n_blocks)], model=model.asked)


def _fits(profile: str, wanted: str) -> bool:
    return not wanted or profile == wanted or profile.startswith(f"{wanted}/")


def _named(dtype: "torch.dtype | str | None") -> str:
    return "" if dtype is None else str(dtype).removeprefix("torch.")
