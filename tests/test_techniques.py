"""Whatever techniques meet in one answer, and whatever befalls its hops: it is the plain chain's.

What is asked for, who guesses, in how many frames guesses leave, what is taken over from earlier
sessions, how rows travel, how the blocks are divided and what goes wrong at which token: all of it
follows from a number, which a failure tells.
"""

import random
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ledger.meter import Rates
from node import drafting
from node.drafting import DRAFTERS
from node.windows import Window
from protocol.asking import MAX_DRAFTS
from protocol.grammar import Grammar
from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from protocol.transport.memory import Faults, MemoryNetwork
from scheduler import Client, Finished, GenerationRequest, GenerationResult, Routed, Token
from tests.local_swarm import LocalNode, Swarm, swarm

TINY = Path(__file__).parents[1] / "manyhands" / "models" / "tiny"
PRICE = Rates(decode_tl=10**6)
WORDS = {"type": "array", "items": {"enum": ["tea", "rain"]}, "minItems": 6, "maxItems": 7}
WANDERING = SamplingParams(temperature=1.0, seed=7)
ASKED = {
    "greedy": {"sampling": SamplingParams(), "ignore_eos": True},
    "sampled": {"sampling": WANDERING, "ignore_eos": True},
    "filtered": {"sampling": replace(WANDERING, top_k=40, top_p=0.9, min_p=0.01)},
    "penalties": {
        "sampling": replace(WANDERING, repetition_penalty=1.2, frequency_penalty=0.4),
        "logprobs": 2,
        "min_tokens": 20,
    },
    "stop": {"sampling": replace(WANDERING, seed=3), "stops": ("\n", " the rain")},
    "grammar": {"sampling": WANDERING, "grammar": Grammar.json_schema(WORDS)},
}
PROMPTS = ("Tell me about rain.", "one two three one two three one two three", "Why?")


class Oracle:
    """Tells an answer that it was told, as often as it likes."""

    def __init__(self, die: random.Random) -> None:
        self.die, self.acceptance = die, die.choice([0.0, 0.5, 0.9, 1.0])
        self.truth: Sequence[int] = ()

    def guess(self, ids: Sequence[int], most: int) -> Sequence[int]:
        truth = self.truth[len(ids) : len(ids) + most]
        return [i if self.die.random() < self.acceptance else (i + 1) % 300 for i in truth]


@dataclass
class Case:
    """What a number says."""

    number: int
    die: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.die = random.Random(self.number)
        self.asked = self.die.choice(list(ASKED))
        self.text = self.die.choice(PROMPTS)
        self.drafter = self.die.choice(["none", "lookup", "oracle", "oracle"])
        self.reuse = self.die.random() < 0.5
        self.mishap = self.die.choice(["", "hop", "link", "leave"])
        self.at = self.die.randint(0, 25)


class Player:
    """Asks one swarm, in which nothing else happens."""

    def __init__(self, built: Swarm, client: Client, network: MemoryNetwork | None) -> None:
        self.built, self.client, self.network = built, client, network
        self._plain: dict[tuple[str, str], GenerationResult] = {}

    async def play(self, number: int) -> Case:
        case = Case(number)
        words = [{"role": "user", "content": case.text}]
        prompt = tuple(self.built.tokenizer.encode_chat(words))
        request = self.built.request(prompt, max_tokens=32, **ASKED[case.asked])
        request = replace(request, reuse_prefix=False)
        if (case.asked, case.text) not in self._plain:
            self._plain[case.asked, case.text] = await self._answer(request, None)
        plain = self._plain[case.asked, case.text]
        oracle = Oracle(case.die)
        oracle.truth = (*prompt, *plain.token_ids)
        DRAFTERS["oracle"] = lambda: oracle
        if self.network is not None and case.die.random() < 0.5:
            self.network.set_faults(Faults(delay_s=(0.0, 0.004)))
        request = replace(request, drafter=case.drafter, reuse_prefix=case.reuse)
        try:
            got = await self._answer(request, case)
        finally:
            del DRAFTERS["oracle"]
            if self.network is not None:
                self.network.set_faults(Faults())
            for local in self.built.nodes:
                local.node.sessions.draining = False
                local.node.sessions.ask_to_go(None)
        assert got.token_ids == plain.token_ids, case
        assert (got.text, got.finish_reason) == (plain.text, plain.finish_reason), case
        return case

    async def _answer(self, request: GenerationRequest, case: Case | None) -> GenerationResult:
        route: Sequence[str] = ()
        async with self.client.generate(request) as run:
            async for event in run:
                if isinstance(event, Routed):
                    route = [step.peer for step in event.route]
                if isinstance(event, Token) and case is not None and event.index == case.at:
                    await self._befall(case, route)
                if isinstance(event, Finished):
                    return event.result
        raise AssertionError(f"no result: {case}")

    async def _befall(self, case: Case, route: Sequence[str]) -> None:
        peers = {local.node.identity.peer_id: local for local in self.built.nodes}
        at = case.die.randrange(len(route))
        local = peers[route[at]]
        if case.mishap == "link" and self.network is not None:
            self.network.break_streams(route[at], route[(at + 1) % len(route)])
        elif case.mishap == "hop" and self._has_heir(local):
            local.node.sessions.draining = True
            for hop in list(local.node.sessions._hops.values()):
                hop.give_up()
        elif case.mishap == "leave" and self._has_heir(local):
            local.node.sessions.draining = True
            local.node.sessions.ask_to_go(20.0)

    def _has_heir(self, lost: LocalNode) -> bool:
        """Whether others serve its blocks."""
        spans = [one.node.engine.span for one in self.built.nodes if one is not lost]
        return any(span.holds(lost.node.engine.span) for span in spans)


@pytest.fixture
def any_window(monkeypatch):
    """In place of the law: as many guesses as a die says, in frames as small."""
    die = random.Random(11)

    def thrown(*measured: object, **more: object) -> Window:
        n = die.randint(0, MAX_DRAFTS)
        return Window(n, 1.0, die.choice([0, 1, 2, 3, 5]))

    monkeypatch.setattr(drafting, "best_window", thrown)


@asynccontextmanager
async def player(home, spans, network, **settings):
    def transport_of(who):
        if network is None:
            return GrpcTransport(who, OPEN_SWARM_ID)
        return network.transport(who, OPEN_SWARM_ID)

    async with swarm(TINY, home, transport_of) as built:
        await built.start(*spans, rates=PRICE, **settings)
        async with built.client() as client:
            yield Player(built, client, network)


async def test_an_answer_is_the_plain_chains_whatever_techniques_meet_in_it(tmp_path, any_window):
    network = MemoryNetwork(seed=3)
    async with player(tmp_path, [(0, 3), (3, 5), (5, 8), (5, 8)], network) as playing:
        cases = [await playing.play(number) for number in (11, 14, 17, 21, 27)]

    assert {case.mishap for case in cases} == {"hop", "link", "leave"}
    assert {case.asked for case in cases} == set(ASKED) - {"filtered"}


@pytest.mark.slow
@pytest.mark.parametrize("over", ["memory", "sockets"])
@pytest.mark.parametrize(
    ("spans", "settings"),
    [
        ([(0, 8), (0, 8)], {}),
        ([(0, 4), (4, 8), (0, 4), (4, 8)], {"pack": "always"}),
        ([(0, 3), (3, 5), (5, 8), (0, 5), (3, 8)], {"wire": "float32"}),
        ([(0, 1), (1, 3), (3, 6), (6, 8), (0, 4), (4, 8)], {}),
    ],
)
async def test_an_answer_is_the_plain_chains_many_times(
    tmp_path, any_window, spans, settings, over
):
    network = MemoryNetwork(seed=5) if over == "memory" else None
    async with player(tmp_path, spans, network, **settings) as playing:
        for number in range(60):
            await playing.play(number)
