"""What `serve` was asked for, as its node and its node's page take it.

In: the command line, read. Out: the node's settings, and what its page tells of its owner's wishes.
"""

from typing import TYPE_CHECKING

from ledger.auditors import read_auditors
from manyhands.audit_room import audit_room
from manyhands.costing.own_price import FREE, Price, read_price
from manyhands.dashboard.beside import About
from manyhands.loads import Loads
from manyhands.manners import sensing, wishes_of
from protocol.errors import UsageError
from protocol.identity import public_key_from_peer_id

if TYPE_CHECKING:
    from ledger.meter import Rates
    from manyhands.home import Home
    from manyhands.preparing import Prepared, Wanted
    from node.draft_model import DraftModel
    from node.settings import NodeSettings
    from protocol.tracing import Tracer

MAX_TEXT_CHARS = 64


def settings_of(
    wanted: "Wanted",
    home: "Home",
    device: str,
    tracer: "Tracer | None" = None,
    draft_model: "DraftModel | None" = None,
) -> "NodeSettings":
    """What the node itself needs of it."""
    from node.credit import Limits
    from node.relay_book import quotas_of
    from node.settings import NodeSettings

    assert wanted.listen is not None, "chosen before anything was said"
    host, port = wanted.listen
    audits = audit_room(device, wanted.share(device))
    return NodeSettings(
        host=host,
        port=port,
        announce=wanted.announce,
        relay=wanted.relay,
        relay_quotas=quotas_of(wanted.relay_limit),
        relay_file=home.node / "relay.json",
        via=tuple(each for each in wanted.via if each is not None),
        via_auto=None in wanted.via,
        join=wanted.join,
        kv_cache_bytes=wanted.kv_cache,
        sent_row_bytes=audits.rows,
        fingerprint_bytes=audits.fingerprints,
        drain_s=wanted.drain,
        wire="" if wanted.wire == "auto" else wanted.wire,
        pack=wanted.pack,
        adapters=home.adapters,
        bans=home.bans,
        region=wanted.region,
        group=wanted.group,
        rates=_rates(_price(wanted, home)),
        prepaid_ncr=wanted.prepaid,
        limits=Limits(
            payment=wanted.payment_threshold,
            disconnect=wanted.disconnect_threshold,
            newcomer=wanted.newcomer_allowance,
        ),
        clients=home.client,
        quarantine=not wanted.no_quarantine,
        auditors=read_auditors(home.root).union(map(public_key_from_peer_id, wanted.auditors)),
        max_bytes_per_s=wanted.max_bandwidth,
        wishes=wishes_of(wanted),
        sense=sensing(),
        draft_model=draft_model,
        tracer=tracer,
    )


def _price(wanted: "Wanted", home: "Home") -> Price:
    """What it asks: as it was told now, else as it was set for this home, else nothing."""
    if wanted.price_per_mtl is not None:
        return Price(wanted.price_per_mtl, wanted.price_per_mtl)
    return read_price(home) or FREE


def _rates(price: Price) -> "Rates":
    from ledger.meter import Rates

    return Rates(prefill_tl=price.prefill, decode_tl=price.decode)


def about_of(wanted: "Wanted", prepared: "Prepared", loads: Loads, home: "Home") -> About:
    """Why it serves what it serves, and what its owner allows it, as people write it."""
    why = "you named them when you started it: --span"
    if wanted.span is None:
        of = " and models" if len(prepared.placing.choices) > 1 else ""
        why = f"the swarm missed them most; it may move to other blocks{of} that are needed more"
    limits = {
        "Hours": str(wanted.hours or "always"),
        "On battery": "pauses" if wanted.on_battery == "pause" else "serves on",
        "While you use the machine": "serves on"
        if wanted.when_idle_min is None
        else f"pauses, until it was idle for {wanted.when_idle_min:g} minutes",
        "Bandwidth": f"{wanted.max_bandwidth / 2**20:.1f} MiB/s each way"
        if wanted.max_bandwidth
        else "no limit",
        "Device": prepared.device,
        "Memory": str(wanted.share(prepared.device) or "what fits"),
        "For sessions' caches": f"{wanted.kv_cache / 2**20:.0f} MiB",
        "Price": _price_text(_price(wanted, home)),
    }
    return About(why=why, limits=limits, loads=loads)


def _price_text(price: Price) -> str:
    if price == FREE:
        return "free"
    asked = (
        f"{price.decode}"
        if price.prefill == price.decode
        else f"{price.prefill} for prompts, {price.decode} for answers,"
    )
    return f"{asked} nanocredits per million tokens through one block"


def check_words(wanted: "Wanted") -> None:
    """
    Raises:
        UsageError: a name that cannot be printed, or flags that leave no choice where there should
            be one.
    """
    for text in (wanted.name, wanted.region, wanted.group):
        if len(text) > MAX_TEXT_CHARS or not text.isprintable():
            raise UsageError(
                f"not a name that others can print: {text[:40]!r}",
                hint=f"--name, --region, --group: up to {MAX_TEXT_CHARS} printable characters",
            )
    if wanted.span is not None and wanted.max_blocks is not None:
        raise UsageError(
            f"--span {wanted.span} says how many blocks to serve",
            hint="leave out --max-blocks, or give --span auto",
        )
    of_one = wanted.span or wanted.adapters or wanted.name or wanted.draft_model
    if len(wanted.models) > 1 and of_one:
        raise UsageError(
            "--span A:B, --adapter, --name and --draft-model are for one model",
            hint="name one MODEL, or leave them out; each model keeps its name",
        )


def check_sessions_and_adapters(wanted: "Wanted") -> None:
    """Find out now what needs no weights; whether an adapter fits the model is known later.

    Raises:
        ConfigError: sessions would have no memory.
        BadAdapter: a directory holds no sound adapter.
    """
    from node.engine.adapter_files import read_adapter
    from node.settings import check_kv_cache

    check_kv_cache(wanted.kv_cache)
    for _, directory in wanted.adapters:
        read_adapter(directory)
