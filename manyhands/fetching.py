"""Bringing what a span needs of a model to this machine, from its hub or from peers.

In: a model of which weights may be missing, the tensors a span needs, and peers to ask. Out: a
store that has them, each checked. The hub comes first: it is the publisher. Peers that serve the
same model vouch for what comes from it, and give the weights themselves where there is no hub, or
it fails. A copy that a person put here is used as it lies there.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from manyhands.boundary import Interrupted
from manyhands.loops import run
from manyhands.models import Model
from manyhands.party import Party
from manyhands.progress import say, size, transferring
from manyhands.signals import interruptible
from manyhands.weights.store import Store, Writer, require_disk
from protocol.address import Address
from protocol.errors import HubUnreachable, IntegrityError, ManyhandsError
from protocol.pieces import Piece, cut_pieces

if TYPE_CHECKING:
    from scheduler.weights import Agreed

Advance = Callable[[int], None]


def missing_bytes(model: Model, tensors: Collection[str]) -> int:
    """How much has to be fetched before these tensors can be loaded."""
    store = model.store
    if store is None:
        return 0
    if model.hub is not None:
        from manyhands.weights.download import missing_ranges

        runs = [run for runs in missing_ranges(store, tensors).values() for run in runs]
    else:
        pieces = cut_pieces(store.manifest, tensors)
        runs = [gap for piece in pieces for gap in store.missing(piece)]
    return sum(stop - start for start, stop in runs)


def bring_weights(
    model: Model, tensors: Collection[str], *, party: Party, join: Sequence[Address] = ()
) -> None:
    """Fetch what is missing of these tensors, and check what is here.

    Raises:
        HubUnreachable, HubRefused, PeerError: nobody gives them.
        IntegrityError: what somebody gave, or what was here, is damaged.
        OutOfMemory: the disk is full.
    """
    store = model.store
    if store is None:
        return
    pieces = cut_pieces(store.manifest, tensors)
    with store.held(lambda: say(f"waiting: another process fetches {model.name}")):
        if not _lacking(store, pieces):
            return
        try:
            with transferring(f"{model.name}: fetching", missing_bytes(model, tensors)) as advance:
                _fetch(model, store, tensors, party, join, advance)
        except (KeyboardInterrupt, Interrupted):
            say("what was fetched is kept; the same command goes on there")
            raise
        store.require(pieces)
    words = [store.sources.get(name, "") for name in tensors]
    if taken := words.count("hub"):
        say(f"{taken} of {len(words)} tensors are as the hub sent them: nobody else vouches")


def _lacking(store: Store, pieces: Sequence[Piece]) -> list[Piece]:
    return [
        piece
        for piece in pieces
        if store.missing(piece) or not store.hashes.keys() >= set(piece.tensors)
    ]


def _fetch(
    model: Model,
    store: Store,
    tensors: Collection[str],
    party: Party,
    join: Sequence[Address],
    advance: Advance,
) -> None:
    if model.hub is None and not join:
        raise HubUnreachable(
            f"{size(missing_bytes(model, tensors))} of {model.name} are not here, and there is "
            "nobody to ask",
            hint="join peers that have it, --join ADDR, or try again when the hub can be reached",
        )
    if model.hub is not None:
        from manyhands.weights.download import Download

        stated = _vouched(model, tensors, party, join) if join else {}
        download = Download(
            hub=model.hub, store=store, wanted=tensors, stated=stated, advance=advance, say=say
        )
        try:
            return download.run()
        except HubUnreachable as error:
            if not join:
                raise
            say(f"warning: {error}; asking peers instead")
    return run(_from_peers(store, tensors, party, join, advance))


def _vouched(
    model: Model, tensors: Collection[str], party: Party, join: Sequence[Address]
) -> Mapping[str, bytes]:
    try:
        agreed = run(_agreed(model.manifest.digest, tensors, party, join))
    except ManyhandsError as error:
        say(f"warning: no peer vouches for what the hub sends: {error}")
        return {}
    return agreed.hashes


async def _agreed(
    digest: bytes, tensors: Collection[str], party: Party, join: Sequence[Address]
) -> "Agreed":
    from scheduler.directory import fetch_directory
    from scheduler.weights import agreed_hashes

    with interruptible():
        transport, directory = party.transport(), party.directory()
        await fetch_directory(transport, join, directory)
        return await agreed_hashes(transport, directory.hosts(digest), digest, tensors)


async def _from_peers(
    store: Store,
    tensors: Collection[str],
    party: Party,
    join: Sequence[Address],
    advance: Advance,
) -> None:
    from scheduler.directory import fetch_directory
    from scheduler.weights import Fetch, agreed_hashes

    manifest = store.manifest
    pieces = _lacking(store, cut_pieces(manifest, tensors))
    require_disk(store.place, sum(map(len, pieces)))
    with interruptible(), store.writing() as writer:
        transport, directory = party.transport(), party.directory()
        await fetch_directory(transport, join, directory)
        hosts = directory.hosts(manifest.digest)
        wanted = [name for piece in pieces for name in piece.tensors]
        agreed = await agreed_hashes(transport, hosts, manifest.digest, wanted)
        _check_agreed(agreed, wanted)
        keeping = _Keeping(store, writer, advance)
        fetch = Fetch(
            transport=transport,
            manifest=manifest,
            hashes=agreed.hashes,
            pieces=pieces,
            keep=keeping.keep,
            done=keeping.done,
        )
        try:
            await fetch.run(hosts)
        finally:
            for peer, why in fetch.blamed.items():
                say(f"warning: {peer} was given up: {why.removeprefix(f'{peer}: ')}")


def _check_agreed(agreed: "Agreed", wanted: Sequence[str]) -> None:
    if agreed.disputed:
        name = min(agreed.disputed)
        raise IntegrityError(
            f"peers are divided about what tensor {name} is",
            hint="fetch from the hub, by the name the model has there: ORG/NAME",
        )
    if agreed.alone:
        say(f"{len(agreed.alone)} of {len(wanted)} tensors have one peer's word alone")


class _Keeping:
    """Where pieces go as they come from peers."""

    def __init__(self, store: Store, writer: Writer, advance: Advance) -> None:
        self._store, self._writer, self._advance = store, writer, advance

    def keep(self, piece: Piece, start: int, data: bytes) -> None:
        self._writer.write(piece.file, start, data)
        self._advance(len(data))

    def done(self, piece: Piece, hashes: Mapping[str, bytes]) -> None:
        self._store.hashes |= hashes
        self._store.sources |= dict.fromkeys(hashes, "peers")
        self._writer.keep(piece.file, piece.start, piece.stop)
