"""A scenario: who there is, how far apart, what is asked of them, what goes wrong, what shall hold.

These are values that check themselves; `reading.py` makes them of TOML, `running.py` runs them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.linklab.control import OUTSIDE
from benchmarks.linklab.ways import Way
from protocol.messages import Span

LLAMA = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
"""Sizes of the random model where a scenario names none."""

MANYHANDS, TRANSFORMERS, ELSEWHERE = "manyhands", "transformers", "elsewhere"
RING, CLIENT = "ring", "client"
MEASURES = ("ttft_ms", "tpot_ms", "tokens_per_s", "speed", "bytes_per_token", "pause_ms")
"""speed: tokens/s of one session, behind its first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One node. slow: times slower than this machine. uplink_mbit_per_s: 0: as wide as it is."""

    span: Span
    slow: float = 1.0
    uplink_mbit_per_s: float = 0.0

    def __post_init__(self) -> None:
        if self.slow < 1:
            raise ValueError(f"slow is 1 or more, got {self.slow:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A random Llama of these sizes, or one by name (`tiny`, a directory)."""

    name: str = ""
    sizes: Mapping[str, int] = field(default_factory=lambda: dict(LLAMA))

    @property
    def n_blocks(self) -> int:
        """Of a random one; 8 of `tiny`."""
        return self.sizes["num_hidden_layers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is asked: `sessions` at once, each for `tokens` behind a prompt.

    text: what somebody says, for a model that can read it; else `prompt_tokens` ids by rule, others
    for each session. drafter: who guesses ahead; `oracle-0.75` is right with that probability and
    knows the answer to one prompt, which is then the same in all sessions.
    ends: `ring`, or `client`: it embeds and draws, so that each token comes by.
    """

    prompt_tokens: int = 64
    tokens: int = 96
    sessions: int = 1
    text: str = ""
    drafter: str = "none"
    ends: str = RING

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.tokens, self.sessions) < 1:
            raise ValueError("prompt_tokens, tokens and sessions are 1 or more")
        if self.ends not in (RING, CLIENT):
            raise ValueError(f"ends is {RING} or {CLIENT}, got {self.ends!r}")

    @property
    def oracle(self) -> float | None:
        """How probably each of its guesses is right; None: nobody knows the answer."""
        name, _, share = self.drafter.partition("-")
        return float(share) if name == "oracle" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """How nodes are started. pack: of `serve`, and `wire`. whole_prompts: each hop runs and sends a
    prompt in one piece, as chains without a pipeline do.
    """

    pack: str = "auto"
    wire: str = "auto"
    whole_prompts: bool = False

    def serve(self) -> tuple[str, ...]:
        switches = ("--lab-whole-prompts",) if self.whole_prompts else ()
        return ("--pack", self.pack, "--wire", self.wire, *switches)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """All ways. between: those that differ from `link`, by their places."""

    link: Way = field(default_factory=Way)
    client: Way = field(default_factory=Way)
    between: Mapping[tuple[int, int], Way] = field(default_factory=dict)

    def ways(self, n_peers: int) -> dict[tuple[int, int], Way]:
        places = range(n_peers)
        ways = {(a, b): self.link for a in places for b in places if a != b}
        ways |= {pair: self.client for a in places for pair in ((a, OUTSIDE), (OUTSIDE, a))}
        return ways | dict(self.between)

    def ring_ms(self, n_peers: int) -> float:
        """Of all links from each peer to the next, and from the last to the first."""
        ways = self.ways(n_peers)
        return sum(ways[a, (a + 1) % n_peers].one_way_ms for a in range(n_peers) if n_peers > 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way of doing it, beside the others.

    system: `elsewhere`: its rows come from another file (`--beside`), for goals to be about.
    """

    name: str
    system: str = MANYHANDS
    workload: Workload
    nodes: NodeOptions
    distances: Distances
    is_lossless: bool = True  # its tokens are those of the others


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Peer `kill` ends without a word, when the first session has `at_token` tokens or `at_s` after
    the start. It is started again before the next turn."""

    kill: int
    at_token: int | None = None
    at_s: float | None = None

    def __post_init__(self) -> None:
        if (self.at_token is None) == (self.at_s is None):
            raise ValueError("a fault has either at_token or at_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """`measure` of variant `of`, over that of `beside`, is at least or at most this.

    beside: a variant; `floor`: the links of the ring and what hops compute; `bound`: what no
    drafter of this acceptance can pass, by the plain ring of variant `plain`; empty: nothing.
    """

    name: str
    measure: str
    of: str
    beside: str = ""
    plain: str = ""
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"{self.measure!r} is not measured; one of {', '.join(MEASURES)}")
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("a goal has either at_most or at_least")
        if (self.beside == "bound") != bool(self.plain):
            raise ValueError("beside = 'bound' needs plain, a variant without drafts")

    def holds(self, value: float) -> bool:
        if self.at_most is not None:
            return value <= self.at_most
        assert self.at_least is not None
        return value >= self.at_least

    def __str__(self) -> str:
        return f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """See the module."""

    name: str  # of its file
    title: str
    why: str = ""
    seed: int = 1
    rounds: int = 3
    model: Model
    peers: tuple[Peer, ...]
    variants: tuple[Variant, ...]
    faults: tuple[Fault, ...] = ()
    goals: tuple[Goal, ...] = ()
    picture: str = "tpot_ms"

    def uplinks(self) -> dict[int, float]:
        """Bytes/s, of peers whose line is narrow."""
        return {
            place: peer.uplink_mbit_per_s * 1e6 / 8
            for place, peer in enumerate(self.peers)
            if peer.uplink_mbit_per_s
        }

    def slow(self) -> dict[int, float]:
        return {place: peer.slow for place, peer in enumerate(self.peers) if peer.slow > 1}
