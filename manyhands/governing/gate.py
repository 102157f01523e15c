"""The doors where a swarm's rules are asked for: before a model is served, and before it is used.

In: a model that was found, and who we are. Out: the model under the name that its swarm knows, with
what its publisher's signature says; or a refusal, with the command that mends it. What was accepted
is remembered in the home (`licences.py`); what the rules say is `protocol.membership`'s.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from manyhands.home import Home
from manyhands.licences import accept, accept_use, has_accepted, has_accepted_use, word_for
from manyhands.loops import run
from manyhands.models import Model
from manyhands.party import Party
from manyhands.progress import say
from protocol.address import Address
from protocol.clock import wall_ms
from protocol.errors import NotAccepted, NotPermitted, UsageError
from protocol.manifest import SIGNATURE, Manifest
from protocol.membership.rules import NO_RULES, Rules
from protocol.model_signature import (
    MAX_FILE_BYTES,
    Checked,
    Signed,
    check_signature,
    read_trusted,
)

if TYPE_CHECKING:
    from scheduler.client import Client
    from scheduler.permission import Terms
    from scheduler.request import GenerationRequest


def rules_of(party: Party) -> Rules:
    return party.membership.state.governance.rules if party.membership else NO_RULES


def require_served(
    home: Home,
    party: Party,
    models: Sequence[Model],
    *,
    name: str = "",
    accepts: bool = False,
    trusted_keys: Sequence[Path] = (),
    join: Sequence[Address] = (),
) -> list[Model]:
    """The models, each as its swarm calls it and with what its signature says.

    Args:
        name: what the operator wants it to be called; empty: as it was released, or calls itself.

    Raises:
        NotPermitted: it is not released, was stopped, or nobody whom the swarm trusts signed it.
        NotAccepted: its licence or the swarm's terms are not accepted here.
        BadSignature: it is not what its publisher signed.
    """
    run(party.hear(join))
    rules = rules_of(party)
    found = []
    for model in models:
        called = name or _released_name(party, model)
        if party.membership is not None:
            judged = party.membership.judge(model.manifest.digest, called)
            for flag in judged.flags:
                say(f"warning: {model.name}: {flag}")
            judged.require(called)
        require_terms(home, rules, model.manifest, accepts=accepts)
        checked = require_signature(model, rules, trusted_keys)
        found.append(
            replace(model, name=called if not name else model.name, signature=str(checked))
        )
    return found


def _released_name(party: Party, model: Model) -> str:
    """What its releasers call it, unless that is what it calls itself."""
    if party.membership is None:
        return model.name
    governance = party.membership.state.governance
    out = governance.released(wall_ms(), governance.rules.serves)
    names = [one.model for one in out if one.manifest == model.manifest.digest]
    return names[-1] if names and model.name not in names else model.name


def terms_for(home: Home, manifest: Manifest, *, accepts: bool = False) -> "Terms":
    """What a client of this home asks before it uses this model: see `scheduler.permission`."""

    def require(rules: Rules, digest: bytes) -> None:
        require_terms(home, rules, manifest, accepts=accepts)

    return require


def tell_flags(client: "Client", request: "GenerationRequest") -> None:
    """Warnings of the swarm about a model, each once."""
    for flag in client.permission.news(request.manifest, request.model):
        say(f"warning: {request.model}: {flag}")


def require_terms(home: Home, rules: Rules, manifest: Manifest, *, accepts: bool) -> None:
    """Return if somebody of this home accepted what the swarm's rules ask to be accepted.

    Raises:
        NotAccepted: nobody has; the message says what, the hint how.
    """
    if accepts:
        accept_terms(home, rules, manifest)
    missing = []
    if rules.asks_licence and not has_accepted(home, manifest):
        missing.append(f"the licence of {manifest.name} ({word_for(manifest)})")
    if rules.use_hash and not has_accepted_use(home, rules.use_hash):
        missing.append("the swarm's acceptable use")
    if missing:
        raise NotAccepted(
            "",
            f"this swarm asks you to accept {' and '.join(missing)}",
            hint="read: manyhands models show MODEL; accept: manyhands models accept MODEL",
        )


def accept_terms(home: Home, rules: Rules, manifest: Manifest) -> None:
    """Remember that a person accepted all that the rules ask for."""
    accept(home, manifest)
    if rules.use_hash:
        accept_use(home, rules.use_hash)


def require_signature(model: Model, rules: Rules, trusted_keys: Sequence[Path] = ()) -> Checked:
    """What the publisher's signature says, which is told.

    Raises:
        BadSignature: it does not hold, or is of other files.
        NotPermitted: the rules ask for a trusted one.
    """
    checked = signature_of(model, rules, trusted_keys)
    if checked.signed is not Signed.UNSIGNED:
        say(f"{model.name}: {checked}")
    if rules.asks_signature and checked.signed is not Signed.TRUSTED:
        raise NotPermitted(
            "",
            f"{model.name} is {checked}; this swarm serves what somebody it trusts has signed",
            hint="manyhands swarm rules shows whom; --trusted-key adds nobody to them",
        )
    return checked


def signature_of(model: Model, rules: Rules, trusted_keys: Sequence[Path] = ()) -> Checked:
    """
    Raises:
        BadSignature, UsageError: it does not hold; a key cannot be read.
    """
    mine = [] if rules.asks_signature else [_read_key(path) for path in trusted_keys]
    return check_signature(_bundle(model.directory), model.manifest, [*rules.trusted, *mine])


def _bundle(directory: Path) -> bytes | None:
    try:
        with (directory / SIGNATURE).open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot read {directory / SIGNATURE}: {error.strerror}") from error


def _read_key(path: Path) -> bytes:
    try:
        return read_trusted(path.expanduser().read_bytes())
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hint="--trusted-key FILE"
        ) from error
