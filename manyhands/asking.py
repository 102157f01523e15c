"""What `generate`, `chat`, `up` and `demo` share: a client of this home, and a well-formed request.

In: flags, a model, a prompt. Out: a `Client` whose books are closed on the way out, and requests in
which everything that was left open is decided: the model's own sampling, a drawn seed, an answer
that fits the context. A prompt is never cut.
"""

import secrets
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from manyhands.home import KEY_NAME, Home, open_books
from manyhands.kinship import shown_to_creditors
from manyhands.models import Model
from manyhands.party import Party, open_party
from protocol.address import Address
from protocol.errors import ContextExceeded, UsageError
from protocol.identity import public_key_from_peer_id

if TYPE_CHECKING:
    from protocol.constraints import Group
    from protocol.grammar import Grammar
    from protocol.text import Tokenizer
    from protocol.transport.grpc import GrpcTransport
    from scheduler.client import Client
    from scheduler.permission import Terms
    from scheduler.purse import ClientPurse
    from scheduler.request import GenerationRequest
    from scheduler.wanted import Limits

DEFAULT_MAX_TOKENS = 256
RECORD_NAME = "peers.json"  # what this home's clients saw of their peers
SEED_BITS = 32  # easy to read out, and exact in every JSON reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a caller may choose about an answer; None leaves it to the model, or to chance."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stops: tuple[str, ...] = ()
    ignore_eos: bool = False
    grammar: "Grammar | None" = None
    logprobs: int | None = None
    forget: bool = False
    no_spares: bool = False
    drafter: str = "none"
    timeout_s: float = 600.0
    wait_s: float | None = None  # for blocks that nobody serves
    profile: str | None = None
    regions: tuple[str, ...] = ()
    groups: "tuple[Group, ...]" = ()
    believe_regions: bool = False
    max_price: int | None = None
    max_cost: int | None = None
    max_prepaid: int = 0
    avoid: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    no_relays: bool = False
    prefer: str = "balanced"
    channel: str = "stable"

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            hint = "--max-tokens 1 or more"
            raise UsageError(f"max_tokens is at least 1, got {self.max_tokens}", hint=hint)

    def request(
        self, model: Model, prompt_ids: Sequence[int], tokenizer: "Tokenizer | None"
    ) -> "GenerationRequest":
        """The request, with nothing left open.

        Raises:
            UsageError: it can never be served; ContextExceeded when it does not fit the model.
        """
        from protocol.sampling import SamplingParams
        from scheduler.request import WAIT_S, GenerationRequest
        from scheduler.wanted import Goal

        chosen = dict(tokenizer.generation_defaults) if tokenizer else {}
        for name in ("temperature", "top_p", "top_k", "min_p"):
            if (value := getattr(self, name)) is not None:
                chosen[name] = value
        seed = secrets.randbits(SEED_BITS) if self.seed is None else self.seed
        return GenerationRequest(
            manifest=model.manifest.digest,
            n_blocks=model.manifest.n_blocks,
            prompt_ids=tuple(prompt_ids),
            max_tokens=self._fitting(len(prompt_ids), model.manifest.max_positions),
            sampling=SamplingParams(**chosen, seed=seed),
            stops=self.stops,
            ignore_eos=self.ignore_eos,
            grammar=self.grammar,
            logprobs=self.logprobs,
            reuse_prefix=not self.forget,
            spares=not self.no_spares,
            drafter=self.drafter,
            timeout_s=self.timeout_s,
            wait_s=WAIT_S if self.wait_s is None else self.wait_s,
            profile=self.spelled_profile(),
            limits=self.limits(),
            goal=Goal(self.prefer),
            model=model.asked,
            vocab_size=model.manifest.vocab_size,
            hidden_size=model.manifest.hidden_size,
            adapter=model.adapter,
        )

    def limits(self) -> "Limits":
        """Who may serve.

        Raises:
            UsageError: nobody ever could.
        """
        from protocol.identity import PeerId
        from scheduler.wanted import Limits

        return Limits(
            regions=tuple(r.strip() for text in self.regions for r in text.split(",")),
            groups=self.groups,
            believe_regions=self.believe_regions,
            max_price=self.max_price,
            max_cost=self.max_cost,
            max_prepaid=self.max_prepaid,
            avoid=tuple(map(PeerId, self.avoid)),
            require=tuple(map(PeerId, self.require)),
            direct=self.no_relays,
        )

    def spelled_profile(self) -> str | None:
        """What was asked for, spelled out: peers compare the text."""
        from protocol.profile import Profile

        return str(Profile.parse(self.profile)) if self.profile else None

    def _fitting(self, n_prompt: int, max_positions: int) -> int:
        """How many tokens to ask for; only the default gives way to the context."""
        left = max_positions - n_prompt
        if left < 1:
            raise ContextExceeded(
                f"this model's context is {max_positions} tokens, the prompt has {n_prompt}",
                hint=f"shorten the prompt to {max_positions - 1} tokens or fewer",
            )
        if self.max_tokens is not None and self.max_tokens > left:
            raise ContextExceeded(
                f"this model's context is {max_positions} tokens: {n_prompt} of prompt and "
                f"{self.max_tokens} of answer do not fit",
                hint=f"--max-tokens {left} or fewer",
            )
        return min(left, self.max_tokens or DEFAULT_MAX_TOKENS)


@asynccontextmanager
async def party_transport(party: Party, *, tunnels: bool) -> AsyncIterator["GrpcTransport"]:
    """Its transport; with tunnels where they are wanted and can be had."""
    transport = party.transport()
    if not tunnels:
        yield transport
        return
    from manyhands.discovering import tunnelling

    async with tunnelling(party.identity, party.swarm_id) as ways:
        transport.tunnelling = ways
        yield transport


@asynccontextmanager
async def open_client(
    home: Home,
    join: Sequence[Address],
    channel: str = "stable",
    terms: "Terms | None" = None,
    *,
    tunnels: bool = False,
    quarantine: bool = True,
    auditors: Collection[str] = (),
) -> AsyncIterator["Client"]:
    """A client with the key, the books and the memory of this home.

    Args:
        channel: of models, where the swarm releases them.
        terms: what has to be accepted, see `governing.gate.terms_for`.
        tunnels: run libp2p too, for peers to which nothing else leads.
        quarantine: not to use peers at fault, by what this home found out, and nodes tell.
        auditors: whose word is enough for that, besides whom this home names.

    Raises:
        ConfigError, IntegrityError: the home's key or ledger cannot be used.
        MembershipEnded, NotAMember: it belongs to its swarm no more.
    """
    from protocol.membership.rules import Channel
    from scheduler.client import Client
    from scheduler.record_file import kept_records
    from scheduler.trust_watch import TrustWatch, watching

    party = open_party(home, "client")
    with (
        open_books(home.client, party.identity, party.swarm_id) as books,
        kept_records(home.client / RECORD_NAME) as records,
    ):
        async with (
            party_transport(party, tunnels=tunnels) as transport,
            _purse(home, party, transport, join) as purse,
            Client(
                party.identity,
                party.swarm_id,
                transport,
                books,
                join,
                records=records,
                membership=party.membership,
                channel=Channel(channel),
                terms=terms,
                purse=purse,
                shows=shown_to_creditors(home, party.identity, party.swarm_id),
            ) as client,
            _settling(home, party, join),
        ):
            places, trusted = (home.client, home.node), partial(trusted_auditors, home, auditors)
            watch = TrustWatch(client, places, trusted, quarantine=quarantine)
            await watch.begin()
            async with watching(watch):
                try:
                    yield client
                finally:
                    party.remember(client.met())


@asynccontextmanager
async def _purse(
    home: Home, party: Party, transport: "GrpcTransport", join: Sequence[Address]
) -> AsyncIterator["ClientPurse | None"]:
    """None: in this swarm pairs owe each other."""
    if not party.policy.issuers:
        yield None
        return
    from manyhands.crediting.purse import open_purse

    async with open_purse(home, party, transport, join) as purse:
        yield purse


@asynccontextmanager
async def _settling(home: Home, party: Party, join: Sequence[Address]) -> AsyncIterator[None]:
    """What is over is settled by the way, where there is anything of the kind."""
    if not party.policy.issuers:
        yield
        return
    from manyhands.crediting.behind import settling_behind

    async with settling_behind(home, party, join):
        yield


def trusted_auditors(home: Home, named: Collection[str] = ()) -> frozenset[bytes]:
    """Whose word on others' work is enough here: of these, of whom the home names, and of its own
    keys, its node's and its clients'.

    Raises:
        ConfigError: what the home names cannot be read.
    """
    from ledger.auditors import read_auditors
    from protocol.key_files import read_public_key

    keys = (place / KEY_NAME for place in (home.node, home.client))
    own = (read_public_key(key) for key in keys if key.exists())
    return frozenset({*own, *map(public_key_from_peer_id, named), *read_auditors(home.root)})
