"""Every knob of a node, read once at the front door and handed down."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ledger.meter import Rates
from ledger.objects import FREE
from node.credit import Limits
from node.draft_model import DraftModel
from node.manners import NO_WISHES, Sensed, Wishes
from node.relay_book import Quotas
from protocol.address import Address
from protocol.errors import ConfigError
from protocol.tracing import Tracer
from protocol.transport.paths import LOOK_S

LEAST_OFFER_S = 600.0  # that an offer holds yet, whenever somebody reads it


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What the operator chose; the front door turns flags and environment into this."""

    host: str = "127.0.0.1"
    port: int = 0  # 0 picks one
    announce: tuple[str, int] | None = None
    """Where others reach it, if not where it listens."""

    relay: tuple[str, int] | None = None
    """Where to listen for callers of peers that cannot be dialled, and carry their bytes."""

    relay_quotas: Quotas = field(default_factory=Quotas)
    relay_file: Path | None = None
    """Keeps what was carried for whom, across starts."""

    via: tuple[Address, ...] = ()
    """Relays through which to be reachable."""

    via_auto: bool = False
    """Be reachable through relays that announce themselves."""

    look_s: float = LOOK_S
    """Between looks for a better way to a peer than the one that rows take."""

    join: tuple[Address, ...] = ()
    kv_cache_bytes: int = 1 << 30
    """For the KV caches and journals of all sessions together."""

    drain_s: float = 30.0
    """How long SIGTERM lets open sessions go on."""

    adapters: Path | None = None
    """A directory of adapters, NAME/ each, which are served while they lie there."""

    pack: str = "auto"
    """Who gets large frames packed: those across the internet (auto), always or never."""

    region: str = ""
    group: str = ""
    """Of clients that ask for it by name; others are not routed here."""

    wire: str = ""
    """What hidden rows travel as; empty: the dtype they are computed in, without loss."""

    max_bytes_per_s: int = 0
    """Of rows and weights, each way; 0: as fast as it goes."""

    wishes: Wishes = NO_WISHES
    """When it gives way to its owner."""

    sense: Callable[[Wishes], Sensed] = lambda wishes: Sensed()
    """What this machine says of itself, asked on a thread."""

    sense_every_s: float = 5.0

    rates: Rates = FREE
    credit_window_ncr: int = 10_000_000
    """What may be run unpaid on one tab, once a price is set."""

    prepaid_ncr: int = 0
    """What is asked for ahead on each tab, once a price is set."""

    lend_limit_ncr: int = 1_000_000_000
    """What is lent for one admitted prompt, to anybody."""

    limits: Limits = field(default_factory=Limits)
    """What a client may owe over all its sessions, once a price is set."""

    clients: Path | None = None
    """Key and log of the clients of the same home: what they owe others stands against this."""

    bans: Path | None = None
    """A file of peers that are not heard for a while; without it they are forgotten at the end."""

    quarantine: bool = True
    """Not to hear peers that are provably at fault, see `accusations`."""

    auditors: frozenset[bytes] = frozenset()
    """Whose verdicts on others' work are enough for that, besides this home's own keys."""

    fingerprints: bool = True
    """Whether statements commit to fingerprints of what is run, so that it can be audited."""

    fingerprints_kept_s: float = 6 * 3600.0
    fingerprint_bytes: int = 64 << 20
    """How long payers can ask for these, and the room that all of them have: 1 KiB has 32 rows."""

    sent_rows_kept_s: float = 300.0
    sent_row_bytes: int = 256 << 20
    """The same of the rows that were sent on: they prove what the hop behind worked on."""

    offer_lifetime_s: float = 3600.0
    """What is asked holds so long; a new offer is made at half of it, and no sooner."""

    draft_model: DraftModel | None = None
    """Guesses ahead for sessions whose last hop this is."""

    tracer: Tracer | None = None
    """Who keeps spans of sessions whose clients trace them; None: nobody."""

    def __post_init__(self) -> None:
        check_kv_cache(self.kv_cache_bytes)
        if self.offer_lifetime_s < 2 * LEAST_OFFER_S:
            raise ConfigError(f"an offer of {self.offer_lifetime_s:g} s holds for too few sessions")


def check_kv_cache(n_bytes: int) -> None:
    """Raises ConfigError: so little holds no session."""
    if n_bytes < 1 << 20:
        raise ConfigError(
            f"a KV cache of {n_bytes} bytes holds no session", hint="--kv-cache 256MiB or more"
        )
