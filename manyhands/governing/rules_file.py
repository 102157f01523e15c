"""A swarm's rules as a person writes them: TOML, whose paths are beside the file.

In: a file. Out: `Rules`, or a complaint that names the line to mend; and rules as such text again.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from protocol.errors import ManyhandsError, UsageError
from protocol.identity import PeerId, peer_id_from_public_key, public_key_from_peer_id
from protocol.membership.rules import Channel, Quorum, ReleaseRule, Rules, read_channel
from protocol.model_signature import fingerprint, read_trusted

HINT = "docs/governance.md has an example"
MAX_FILE_BYTES = 256 * 1024
KNOWN = frozenset((
    "serves", "asks_licence", "acceptable_use", "acceptable_use_file", "trusted_keys",
    "asks_signature", "release", "advisories",
))  # fmt: skip


def read_rules(path: Path, sequence: int) -> Rules:
    """
    Raises:
        UsageError: it cannot be read, or makes no sense.
    """
    text = _text(path)
    try:
        fields = tomllib.loads(text)
        if unknown := sorted(fields.keys() - KNOWN):
            raise UsageError(f"{unknown[0]!r} is nothing that rules have")
        return _rules(fields, path.parent, sequence)
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        why = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path}: {why}", hint=HINT) from error
    except ManyhandsError as error:
        raise UsageError(f"{path}: {error}", hint=error.hint or HINT) from error


def _rules(fields: Mapping[str, Any], beside: Path, sequence: int) -> Rules:
    releases = [
        ReleaseRule(str(rule["models"]), read_channel(channel), _quorum(rule, "releasers"))
        for rule in fields.get("release", [])
        for channel in rule.get("channels", [Channel.STABLE])
    ]
    use = fields.get("acceptable_use", "")
    if "acceptable_use_file" in fields:
        use = _text(beside / fields["acceptable_use_file"])
    serves = {read_channel(channel) for channel in fields.get("serves", [Channel.STABLE])}
    trusted = {
        read_trusted(_text(beside / name).encode()) for name in fields.get("trusted_keys", [])
    }
    return Rules(
        sequence=sequence,
        releases=tuple(releases),
        serves=tuple(channel for channel in Channel if channel in serves),
        advisories=_quorum(fields["advisories"], "peers") if "advisories" in fields else None,
        asks_licence=_flag(fields, "asks_licence"),
        acceptable_use=str(use),
        trusted=tuple(sorted(trusted)),
        asks_signature=_flag(fields, "asks_signature"),
    )


def _quorum(fields: Mapping[str, Any], name: str) -> Quorum:
    peers, needs = fields[name], fields.get("needs", 1)
    if type(needs) is not int:
        raise UsageError("needs is a count")
    if len(set(peers)) != len(peers):
        raise UsageError(f"{name} names somebody twice")
    return Quorum.of([public_key_from_peer_id(PeerId(str(peer))) for peer in peers], needs)


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if type(value) is not bool:
        raise UsageError(f"{name} is true or false")
    return value


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path} has more than {MAX_FILE_BYTES} bytes", hint=HINT)
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"cannot read {path}: {why}", hint=HINT) from error


def write_rules(rules: Rules) -> Iterator[str]:
    """As lines that `read_rules` reads, but for trusted keys, which are told by fingerprint."""
    yield f"serves = {_words(rules.serves)}"
    if rules.asks_licence:
        yield "asks_licence = true"
    if rules.acceptable_use:
        yield f'acceptable_use = """{rules.acceptable_use}"""'
    for key in rules.trusted:
        yield f"# trusted key {fingerprint(key)}"
    if rules.asks_signature:
        yield "asks_signature = true"
    for rule in rules.releases:
        yield "\n[[release]]"
        yield f'models = "{rule.models}"'
        yield f"channels = {_words([rule.channel])}"
        yield from _quorum_lines(rule.quorum, "releasers")
    if rules.advisories:
        yield "\n[advisories]"
        yield from _quorum_lines(rules.advisories, "peers")


def _quorum_lines(quorum: Quorum, name: str) -> Iterator[str]:
    yield f"needs = {quorum.needs}"
    yield f"{name} = {_words([peer_id_from_public_key(key) for key in quorum.keys])}"


def _words(words: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


def view(rules: Rules) -> dict[str, Any]:
    """For `--json`."""
    return {
        "sequence": rules.sequence,
        "serves": list(rules.serves),
        "asks_licence": rules.asks_licence,
        "acceptable_use": rules.acceptable_use,
        "acceptable_use_sha256": rules.use_hash.hex(),
        "asks_signature": rules.asks_signature,
        "trusted_keys": [fingerprint(key) for key in rules.trusted],
        "releases": [
            {"models": rule.models, "channel": rule.channel, **_quorum_view(rule.quorum)}
            for rule in rules.releases
        ],
        "advisories": _quorum_view(rules.advisories) if rules.advisories else None,
    }


def _quorum_view(quorum: Quorum) -> dict[str, Any]:
    return {
        "needs": quorum.needs,
        "peers": [peer_id_from_public_key(key) for key in quorum.keys],
    }
