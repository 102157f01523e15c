"""What a client asks of a hop besides blocks and room: the parts of a `Reserve`, as values."""

from dataclasses import dataclass
from itertools import pairwise

from protocol.adapter_names import is_adapter
from protocol.checks import MAX_POSITIONS, require

MAX_PREFIXES = 64  # named in one message
PREFIX_BYTES = 16  # of one name
MAX_ADDRESSES = 8
MAX_NOTE_BYTES = 1024
MAX_GRAMMAR_BYTES = 64 << 10
MAX_DRAFTS = 15  # behind one token: with it, what a node verifies in one step
MAX_DRAFTER_CHARS, ANY_DRAFTER = 64, "auto"
MODEL_DRAFTER = "model"  # a small one, beside the last hop's blocks
MAX_TOP = 20  # likeliest tokens that are told beside a drawn one
POOLINGS = ("mean", "last")
MAX_PROOF_BYTES = 24 << 10  # an allotment's: a path, and a line for each of many witnesses
MAX_LEAVES, MAX_LEAVES_BYTES = 4096, 1 << 20  # of a spend log, shown at once
MAX_BIASES, BIAS_BYTES = 1024, 8  # a token id and what is added to its logit


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What the last hop draws with; `protocol.sampling` gives the fields their meaning."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    min_p: float = 0.0
    choice: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Extensions:
    """Fields every `Reserve` has from the start, served by some hops or by none (DESIGN 5a.13).

    A hop refuses what it does not serve by name, so that nobody believes it was honoured.

    adapter: `name@digest` of one that the hop announces.
    grammar: what the answer has to be, as `protocol.grammar` writes it.
    logit_bias: as `protocol.sampling` packs it.
    logprobs: 1 + how many of the likeliest tokens to tell beside the one drawn; 0: none at all.
    drafter: who guesses ahead at the last hop, up to MAX_DRAFTS ids behind each token; with
        MODEL_DRAFTER a small model there, with ANY_DRAFTER whoever is best there, or nobody.
    prompt_logprobs: the same of the prompt's own ids, which are then all run, none taken over.
    pooling: answer with one vector of the prompt: the mean of its rows behind the final norm, or
        the last one. The answer is one token long.
    """

    grammar: str = ""
    logprobs: int = 0
    logit_bias: bytes = b""
    adapter: str = ""
    drafter: str = ""
    pooling: str = ""
    prompt_logprobs: int = 0

    def __post_init__(self) -> None:
        require(not self.adapter or is_adapter(self.adapter), "that is no name of an adapter")
        require(0 <= self.logprobs <= 1 + MAX_TOP, "logprobs out of range")
        require(0 <= self.prompt_logprobs <= 1 + MAX_TOP, "prompt_logprobs out of range")
        require(len(self.drafter) <= MAX_DRAFTER_CHARS, "that is no name of a drafter")
        require(self.pooling in ("", *POOLINGS), "unknown pooling")
        n_biases, rest = divmod(len(self.logit_bias), BIAS_BYTES)
        require(n_biases <= MAX_BIASES and not rest, "a logit bias out of range")
        n_bytes = len(self.grammar.encode(errors="replace"))
        require(n_bytes <= MAX_GRAMMAR_BYTES, "a grammar too large")

    @property
    def reads_prompt(self) -> bool:
        """Whether the last hop has to see every row of the prompt."""
        return bool(self.pooling or self.prompt_logprobs)

    def used(self) -> tuple[str, ...]:
        return tuple(name for name in self.__slots__ if getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixNames:
    """What a client calls the first rows of a session at one hop (DESIGN 5a.8).

    The name of rows `[0, position)` is a digest under the client's salt of the ids before
    `position` and of the hops they came through: a hop learns nothing from it, and nobody else
    can guess it. With `shared`, other clients who know the name may begin there, too.
    """

    positions: tuple[int, ...] = ()
    digests: bytes = b""
    shared: bool = False

    def __post_init__(self) -> None:
        ascending = all(one < other for one, other in pairwise((0, *self.positions)))
        require(len(self.positions) <= MAX_PREFIXES, f"more than {MAX_PREFIXES} prefixes")
        require(ascending, "prefixes are not in ascending order")
        require(self.end <= MAX_POSITIONS, "a prefix out of range")
        expected = len(self.positions) * PREFIX_BYTES
        require(len(self.digests) == expected, "prefixes and their digests do not match")

    @property
    def end(self) -> int:
        """The longest prefix; 0 when there is none."""
        return self.positions[-1] if self.positions else 0

    def items(self) -> list[tuple[int, bytes]]:
        """(position, digest), in ascending order."""
        size = PREFIX_BYTES
        digests = [self.digests[i * size : (i + 1) * size] for i in range(len(self.positions))]
        return list(zip(self.positions, digests, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """Rows that another hop of the session has run, for the one that takes its place (5a.19).

    peer: whom to ask; empty when there is nothing to take over. note: the client's leave to, as
    `protocol.handover` seals it.
    """

    peer: str = ""
    addresses: tuple[str, ...] = ()
    note: bytes = b""

    def __post_init__(self) -> None:
        require(len(self.addresses) <= MAX_ADDRESSES, "too many addresses")
        require(len(self.note) <= MAX_NOTE_BYTES, "a note too long")
        require(bool(self.peer) == bool(self.note), "a handover names a peer and has a note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Funding:
    """What shall pay for a session, where an issuer's credit does (`ledger.funding`).

    proof: that an allotment to this hop is in the client's spend log. leaves: of that log, from
    `start` on, up to the proof's checkpoint; for a hop that has said that it lacks them.
    """

    proof: bytes = b""
    start: int = 0
    leaves: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        require(len(self.proof) <= MAX_PROOF_BYTES, "a proof of an allotment too long")
        require(0 <= self.start < 1 << 63, "a place in a spend log out of range")
        require(len(self.leaves) <= MAX_LEAVES, f"more than {MAX_LEAVES} leaves")
        n_bytes = sum(map(len, self.leaves))
        require(n_bytes <= MAX_LEAVES_BYTES, f"leaves of more than {MAX_LEAVES_BYTES} bytes")
        require(bool(self.proof) or not self.leaves, "leaves of a spend log, and nothing to prove")

    def __bool__(self) -> bool:
        """Whether there is any: else nothing of it travels."""
        return bool(self.proof)
