"""What a client and a hop say to each other about a session, as values.

A value that exists is a value that is valid: every message checks itself in `__post_init__`, so
code that holds one never asks again. `codec.py` turns these into protobuf and back; the rules of
the conversation live in `hop_session.py` and `chain_session.py`. DESIGN 5a names the rules. What
neighbours say to each other is in `frames.py`.

Control stream (client dials hop):   Reserve · Raise · Commit · Pay · Keep · Close · Resume  →
                                     ←  Reserved · Raised · Committed · TokenEvent · Progress
                                        · Account · Unpaid · LinkDown · Failure · Closed · Leaving
                                        · PromptLogprobs
"""

from dataclasses import dataclass, field
from typing import NewType, Self

from protocol.asking import MAX_ADDRESSES, Extensions, Funding, Handover, PrefixNames, Sampling
from protocol.checks import MAX_POSITIONS as MAX_POSITIONS
from protocol.checks import require as require
from protocol.checks import require_id as require_id
from protocol.logprobs import Logprobs, PromptLogprobs

SessionId = NewType("SessionId", bytes)

MAX_STOPS, MAX_STOP_CHARS, MAX_STOP_IDS = 16, 256, 64
MAX_TRACEPARENT_CHARS = 64  # those of today have 55
MAX_REASON_CHARS = 64  # of why a client closes a session
MAX_HOPS = 512
MAX_BUDGET_MS = 1 << 40  # 34 years
MAX_CONSTRAINTS_BYTES, MAX_RECORDS_BYTES = 9 * 1024, 18 * 1024
MAX_VECTOR_BYTES = 1 << 20
TOKEN_BYTES = 4  # a token id on the wire: unsigned, little-endian


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A run of transformer blocks `[start, stop)` that one node serves."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"a span runs forward, got [{self.start}, {self.stop})")

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"

    def continues(self, earlier: Self) -> bool:
        """Whether this span picks up exactly where `earlier` left off."""
        return self.start == earlier.stop

    def holds(self, other: Self) -> bool:
        """Whether every block of `other` is in this span."""
        return self.start <= other.start and other.stop <= self.stop


# --- the control stream: client to hop -----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Ask a hop to keep room for a session; expires after 3 s unless a `Commit` follows (5a.15)."""

    session: SessionId
    epoch: int
    manifest: bytes  # sha256: the model's fingerprint
    span: Span  # the blocks this hop shall run, inside its loaded span
    n_blocks: int  # of the whole model: says whether this hop is first, last, or both
    capacity: int  # positions: prompt and answer
    max_tokens: int
    budget_ms: int  # what remains of the client's deadline; clocks are never compared
    client_nonce: bytes
    salt_commit: bytes  # sha256 of the salt that comes with the commit
    profile: str = ""  # required execution profile; empty accepts the hop's own
    ignore_eos: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    traceparent: str = ""  # of the trace that the client keeps, see `protocol.tracing`
    extensions: Extensions = field(default_factory=Extensions)
    prefixes: PrefixNames = field(default_factory=PrefixNames)  # this hop may have them already
    client_ends: bool = False  # it embeds and samples: every hop takes and gives hidden rows
    handover: Handover = field(default_factory=Handover)
    hears_leaving: bool = False  # tell it when you go
    constraints: bytes = b""  # on its hops, as `protocol.constraints` seals them
    min_tokens: int = 0  # before these nothing ends the answer
    stop_token_ids: tuple[int, ...] = ()  # end it as the model's own do
    has_begun: bool = False  # it goes on after a loss; hops keep room for such
    funding: Funding = field(default_factory=Funding)  # what pays, in a swarm with issuers

    def __post_init__(self) -> None:
        require_id(self.session, "session")
        require_id(self.manifest, "manifest", 32)
        require(self.prefixes.end <= self.capacity, "a prefix beyond the room asked for")
        require_id(self.client_nonce, "client nonce")
        require_id(self.salt_commit, "salt commitment", 32)
        require(self.epoch >= 0, "negative epoch")
        require(self.span.stop <= self.n_blocks, "span outside the model")
        require(0 < self.capacity <= MAX_POSITIONS, "capacity out of range")
        require(0 < self.max_tokens <= self.capacity, "max_tokens out of range")
        require(self.budget_ms > 0, "the deadline has passed")
        require(self.budget_ms <= MAX_BUDGET_MS, "the deadline is out of range")
        require(len(self.stops) <= MAX_STOPS, f"more than {MAX_STOPS} stop strings")
        require(all(0 < len(s) <= MAX_STOP_CHARS for s in self.stops), "stop string out of range")
        require(0 <= self.min_tokens <= self.max_tokens, "min_tokens out of range")
        require(len(self.stop_token_ids) <= MAX_STOP_IDS, f"more than {MAX_STOP_IDS} stop ids")
        require(len(self.traceparent) <= MAX_TRACEPARENT_CHARS, "traceparent too long")
        require(len(self.constraints) <= MAX_CONSTRAINTS_BYTES, "constraints are too large")

    @property
    def is_first(self) -> bool:
        """Whether it embeds: ids come in."""
        return self.span.start == 0 and not self.client_ends

    @property
    def is_last(self) -> bool:
        """Whether it draws: ids go out."""
        return self.span.stop == self.n_blocks and not self.client_ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Raise:
    """A new epoch: stop, drop what is queued, say how far you got, wait for the commit."""

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What epoch `epoch` is: neighbours, lengths, history. The hop cuts to `length` and goes on.

    n: the committed length: every id the client holds. Rows from n - 1 on are sampled. Where the
        client holds the ends: every row it has sent, and hops may keep all of them.
    next_length: what the successor has; the hop's journal fills it from there.
    ids: for the first hop, ids [length, n); for a new last hop, ids [0, n); else empty.
    digest: for middle hops, the salted digest of the ids they will never see.
    route, terms: encoded envelopes the client signed; terms only for a hop new to the chain.
    records: announcements of the neighbours, where the session has constraints on them.
    """

    epoch: int
    length: int
    next_length: int
    n: int
    n_prompt: int
    previous: str  # peer ids
    next: str
    next_addresses: tuple[str, ...]
    route: bytes
    salt: bytes
    terms: bytes = b""
    ids: bytes = b""
    history: bytes = b""
    digest: bytes = b""
    records: bytes = b""

    def __post_init__(self) -> None:
        require(self.epoch >= 0, "negative epoch")
        require(0 <= self.n_prompt <= self.n <= MAX_POSITIONS, "committed length out of range")
        require(0 <= self.length <= self.n, "a hop is cut to the committed length")
        require(0 <= self.next_length <= self.n, "a hop is cut to the committed length")
        require(bool(self.previous) and bool(self.next), "a hop needs neighbours")
        require(len(self.next_addresses) <= MAX_ADDRESSES, "too many addresses")
        require_id(self.salt, "salt", 32)
        require(len(self.records) <= MAX_RECORDS_BYTES, "too many records")
        require(len(self.ids) in (0, (self.n - self.length) * TOKEN_BYTES), "ids do not fit")
        require(len(self.history) in (0, self.n * TOKEN_BYTES), "history does not fit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pay:
    """A voucher: the client's signed, cumulative promise (encoded envelope)."""

    voucher: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """From now on the session's rows have these names; keep them when the client closes it.

    Whoever knows a name can begin another session there, also while this one goes on.
    """

    prefixes: PrefixNames


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """The session is over for the client; settle and free. `reason` is for the hop's log."""

    reason: str = "done"

    def __post_init__(self) -> None:
        require(len(self.reason) <= MAX_REASON_CHARS, "a reason too long")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """First message of a control stream that continues an older one (5a.2)."""

    session: SessionId
    epoch: int
    have: int  # ids the client holds; the last hop sends the events after them again

    def __post_init__(self) -> None:
        require_id(self.session, "session")


ToHop = Reserve | Raise | Commit | Pay | Keep | Close | Resume


# --- the control stream: hop to client -----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """Room is kept. terms: signed by the hop; offer: what they cite (encoded envelopes).

    prefix_length: how many rows are here already; one of the prefixes asked about, what another
        hop handed over, or 0. journal_from: the first one whose output is here.
    """

    epoch: int
    terms: bytes
    offer: bytes
    row_bytes: int
    profile: str
    prefix_length: int = 0
    journal_from: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.prefix_length <= MAX_POSITIONS, "a prefix out of range")
        require(0 <= self.journal_from <= self.prefix_length, "journal out of range")


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """A survivor's answer: rows it has run, and the first row its journal still holds."""

    epoch: int
    length: int
    journal_from: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.length <= MAX_POSITIONS, "length out of range")
        require(0 <= self.journal_from <= self.length, "journal out of range")


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """The id at `position`, drawn by the last hop; `rows` were sent round since the last event,
    drafts among them (5a.11).
    """

    epoch: int
    position: int
    token_id: int
    text: str
    rows: int
    finish_reason: str = ""  # "", "stop" or "length"
    logprob: float = 0.0  # of the id; these three where the client asked for them
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()
    pooled: bytes = b""  # one vector of the prompt, float32, where the client asked for that

    def __post_init__(self) -> None:
        require(0 <= self.position <= MAX_POSITIONS, "position out of range")
        require(0 <= self.token_id < 1 << 31, "token id out of range")
        require(self.finish_reason in ("", "stop", "length"), "unknown finish reason")
        Logprobs(self.logprob, self.top_ids, self.top_logprobs)  # which checks itself
        require(len(self.pooled) <= MAX_VECTOR_BYTES, "a vector too long")

    @property
    def logprobs(self) -> Logprobs:
        return Logprobs(self.logprob, self.top_ids, self.top_logprobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Rows received and rows sent on, so that a stall has an address (5a.10)."""

    epoch: int
    rows_in: int
    rows_out: int
    run_us: int = 0  # of the last step, for per-hop milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A statement: the hop's signed, cumulative meter (encoded envelope)."""

    statement: bytes
    final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpaid:
    """I stand at my credit limit and wait for a voucher: nobody else is to blame (5a.9)."""

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkDown:
    """I cannot reach my successor."""

    epoch: int
    peer: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A typed refusal or failure: an error of `protocol.errors`, as `error_codec` writes it."""

    epoch: int
    error: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The receipt is in the hop's log, at leaf `index` of its tree."""

    receipt: bytes = b""
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """I go, at the latest in `left_ms`: find somebody for my blocks, I hand over what I have run.

    row_bytes: keys, values and journal of one position. up_bytes_per_s: 0 where not measured.
    Said only to clients that hear it (`Reserve.hears_leaving`).
    """

    epoch: int
    left_ms: int
    row_bytes: int
    up_bytes_per_s: int = 0

    def __post_init__(self) -> None:
        require(self.left_ms <= MAX_BUDGET_MS, "a leave out of range")


ToClient = (
    Reserved
    | Raised
    | Committed
    | TokenEvent
    | Progress
    | Account
    | Unpaid
    | LinkDown
    | Failure
    | Closed
    | Leaving
    | PromptLogprobs
)
