"""Checks of what this machine keeps: its home and keys, its membership, models and licences."""

import os
import random
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from manyhands.doctor.case import Case
from manyhands.doctor.finding import Check, Finding, fail, ok, on_thread, skip, warn
from manyhands.home import KEY_NAME, MEMBERSHIP
from manyhands.licences import is_accepted
from manyhands.progress import size
from manyhands.weights.store import cache_root
from protocol.describing import MANIFEST_FILE
from protocol.errors import BadModel, BadSignature, InsecureHome, IntegrityError, ManyhandsError
from protocol.identity import load_peer_id
from protocol.manifest import SIGNATURE, Manifest
from protocol.model_signature import Checked, check_signature
from protocol.pieces import Piece

if TYPE_CHECKING:
    from manyhands.party import Who
    from manyhands.weights.store import Store

SAMPLE_BYTES = 256 * 2**20  # of all models together
PARTIES: tuple["Who", ...] = ("node", "client")
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def _home(case: Case) -> Finding:
    root = case.asked.home
    if not root.exists():
        return ok(f"{root} is not there yet; the first command makes it")
    if not root.is_dir():
        return fail(f"the home {root} is a file", "choose a directory: --home DIR")
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        return fail(f"the home {root} is not writable", f"chown it to you, or chmod u+rwx {root}")
    mode = stat.S_IMODE(root.stat().st_mode)
    if os.name == "posix" and mode & OTHERS:
        reason = f"others may look into the home {root} (mode {mode:04o})"
        return warn(reason, f"chmod 700 {root}", lambda: root.chmod(0o700))
    return ok(f"{root} is there, and nobody else's")


def _identity(case: Case) -> Finding:
    keys = [each / KEY_NAME for each in (case.home.node, case.home.client)]
    keys.append(case.home.root / MEMBERSHIP / "founder.key")
    found = [path for path in keys if path.exists()]
    if not found:
        return ok("no key yet; each is made at first use, for its owner alone")
    for path in found:
        try:
            load_peer_id(path)
        except InsecureHome as error:
            return fail(str(error), error.hint, partial(path.chmod, 0o600))
    return ok(f"{len(found)} key(s), for their owner alone")


def _membership(case: Case) -> Finding:
    if not (case.home.root / MEMBERSHIP).exists():
        return skip("this home belongs to no swarm with members")
    from manyhands.party import open_party

    ended: list[tuple[str, ManyhandsError]] = []
    name = ""
    for who in PARTIES:
        try:
            party = open_party(case.home, who)
        except ManyhandsError as failure:
            ended.append((who, failure))
            continue
        assert party.membership is not None
        name = party.membership.state.policy.name
    if ended:
        whose, error = ended[0]
        judge = warn if name else fail
        reason = f"the {whose} of this home is no member: {error}"
        return judge(reason, error.hint or "ask for an invite, then: manyhands swarm join mh://…")
    return ok(f"node and client are members of {name}")


async def _licence(case: Case) -> Finding:
    model = await case.model()
    if model is None:
        return skip("no MODEL was named")
    manifest = model.manifest
    if not manifest.licence:
        return warn(
            f"{manifest.name} states no licence",
            "ask its publisher what you may do with it before you serve it",
        )
    if is_accepted(case.home, manifest):
        return ok(f"{manifest.name}: {manifest.licence}")
    return fail(
        f"{manifest.name} comes under {manifest.licence}, which has terms of its own",
        f"read them, then say so once: manyhands serve {case.asked.model} --accept-licence",
    )


def _manifests(case: Case) -> Finding:
    """The small files of each model in the cache against the manifest that names it."""
    places = list(_places())
    if not places:
        return skip(f"no model was fetched to {cache_root()}")
    from manyhands.weights.named import open_store

    for place in places:
        removing = f"remove it, and it is fetched again: rm -r '{place}'"
        store = open_store(place)
        if store is None:
            return fail(f"the small files in {place} are not what their manifest says", removing)
        if store.manifest.digest.hex() != place.name:
            return fail(f"{place} holds the manifest of another model", removing)
    return ok(f"{len(places)} model(s), their small files as their manifests say")


def _signatures(case: Case) -> Finding:
    """What publishers signed, of each model in the cache; whom our swarm trusts is trusted."""
    from manyhands.membership import load_state

    trusted: tuple[bytes, ...] = ()
    if (case.home.root / MEMBERSHIP).exists():
        trusted = tuple(load_state(case.home).governance.rules.trusted)
    found: list[Checked] = []
    for place in _places():
        try:
            manifest = Manifest.from_json((place / MANIFEST_FILE).read_bytes())
            bundle = (place / SIGNATURE).read_bytes() if (place / SIGNATURE).exists() else None
            found.append(check_signature(bundle, manifest, trusted))
        except BadSignature as error:
            return fail(f"{place.name[:16]}: {error}", error.hint or f"rm -r '{place}'")
        except (OSError, BadModel, IntegrityError):
            continue  # `manifests` tells of it
    if not found:
        return skip(f"no model was fetched to {cache_root()}")
    n_signed = Counter(each.signed.value for each in found)
    return ok(", ".join(f"{n} {signed}" for signed, n in sorted(n_signed.items())))


def cache_finding(*, is_full: bool, seed: int | None = None) -> Finding:
    """Whether the weights that were fetched still have the hashes they came with.

    Tensors are drawn by chance up to `SAMPLE_BYTES`, unless all are wanted.
    """
    from manyhands.weights.named import open_store

    stores = [store for place in _places() if (store := open_store(place)) is not None]
    pieces = [(store, piece) for store in stores for piece in _pieces(store)]
    if not pieces:
        return skip(f"no weights were fetched to {cache_root()}")
    n_all = len(pieces)
    if not is_full:
        random.Random(seed).shuffle(pieces)
    n_read, n_bytes = 0, 0
    for store, piece in pieces:
        if n_read and not is_full and n_bytes + len(piece) > SAMPLE_BYTES:
            continue
        if (why := _damage(store, piece)) is not None:
            return fail(
                f"tensor {piece.tensors[0]} in {store.place} {why}",
                "manyhands doctor --only cache --full --fix   forgets it, and it is fetched again",
                lambda: _forget_damaged(stores),
            )
        n_read, n_bytes = n_read + 1, n_bytes + len(piece)
    part = "all" if n_read == n_all else f"{n_read} of {n_all}"
    return ok(f"{part} tensors, {size(n_bytes)}, have the hashes they came with")


def _damage(store: "Store", piece: Piece) -> str | None:
    [name] = piece.tensors
    try:
        if store.found(piece)[name] == store.hashes[name]:
            return None
    except (OSError, BadModel):
        return "cannot be read"
    return "is not what was fetched"


def _forget_damaged(stores: "list[Store]") -> None:
    for store in stores:
        with suppress(IntegrityError), store.held():
            pass  # what looks touched is looked at, and forgotten if damaged
        with store.held():
            for piece in list(_pieces(store)):
                if _damage(store, piece) is not None:
                    store.drop(piece)
            store.save()


def _pieces(store: "Store") -> Iterator[Piece]:
    for name in store.hashes:
        place = store.manifest.tensors[name]
        yield Piece(place.file, place.entry.start, place.entry.stop, (name,))


def _places() -> Iterator[Path]:
    yield from sorted(path.parent for path in cache_root().glob(f"*/{MANIFEST_FILE}"))


CHECKS = (
    Check("home", "where keys and ledgers live", on_thread(_home)),
    Check("identity", "that keys are whole, and for their owner alone", on_thread(_identity)),
    Check("membership", "our place in a swarm with members", on_thread(_membership)),
    Check("licence", "whether the model's licence was accepted", _licence, 30.0),
    Check("manifests", "fetched models against their manifests", on_thread(_manifests)),
    Check("signatures", "publishers' signatures of fetched models", on_thread(_signatures)),
    Check(
        "cache",
        "fetched weights against their hashes: a sample, or all with --full",
        on_thread(lambda case: cache_finding(is_full=case.asked.is_full)),
        3600.0,
    ),
)
