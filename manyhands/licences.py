"""A model's licence: read where the publisher says it, shown, and accepted by a person if need be.

In: a model's directory or what a hub says, and a home. Out: the licence's id, or a refusal until
somebody has said `--accept-licence`, which is remembered per model and licence in the home.
Permissive licences ask for nothing; a model that states none is served with a word about it.
"""

import re
from pathlib import Path

from manyhands.home import Home
from manyhands.progress import say
from protocol.errors import LicenceNotAccepted
from protocol.manifest import Manifest

PERMISSIVE = frozenset((
    "0bsd", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "bsl-1.0", "cc-by-4.0", "cc0-1.0", "isc", "mit", "mpl-2.0", "ms-pl",
    "ncsa", "postgresql", "unlicense", "wtfpl", "zlib",
))  # fmt: skip
RECOGNISED = {
    "Apache License": "apache-2.0",
    "MIT License": "mit",
    "GNU GENERAL PUBLIC LICENSE": "gpl",
}
FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)
ACCEPTED = "accepted-licences"
MAX_CHARS, MAX_CARD_BYTES = 100, 2**20


def read_licence(directory: Path) -> str:
    """The id that a model card states, or what the LICENSE file looks like; empty: neither."""
    card = FRONT_MATTER.match(_text(directory / "README.md"))
    if card:
        stated = dict(re.findall(r"^(license|license_name):[ \t]*(\S.*?)\s*$", card[1], re.M))
        licence = stated.get("license_name") or stated.get("license", "")
        if licence.strip("\"'"):
            return plain(licence.strip("\"'"))
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md"):
        if text := _text(directory / name)[:2000]:
            return next((short for words, short in RECOGNISED.items() if words in text), "other")
    return ""


def plain(licence: str) -> str:
    """As it may stand on a terminal."""
    return "".join(c for c in licence if c.isprintable())[:MAX_CHARS]


def require_accepted(home: Home, manifest: Manifest, *, accepts: bool) -> None:
    """Show the licence; return if it asks for nothing, or somebody accepted it.

    Raises:
        LicenceNotAccepted: nobody has; the message names it and the flag.
    """
    licence = manifest.licence
    if not licence:
        say(f"licence of {manifest.name}: not stated; ask its publisher what you may do with it")
        return
    say(f"licence of {manifest.name}: {licence}")
    if accepts and licence.lower() not in PERMISSIVE:
        accept(home, manifest)
    elif not is_accepted(home, manifest):
        raise LicenceNotAccepted(
            f"{manifest.name} comes under {licence}, which has terms of its own",
            hint="read them, then say so once: --accept-licence",
        )


def is_accepted(home: Home, manifest: Manifest) -> bool:
    """Whether its licence asks for nothing, or somebody of this home has accepted it."""
    licence = manifest.licence.lower()
    return not licence or licence in PERMISSIVE or _note(home, manifest).exists()


def word_for(manifest: Manifest) -> str:
    """What a person is told of it."""
    return manifest.licence or "not stated"


def accept(home: Home, manifest: Manifest) -> None:
    """Remember that somebody accepts this licence of this very model."""
    _remember(_note(home, manifest))


def has_accepted(home: Home, manifest: Manifest) -> bool:
    """Whether somebody of this home said so, whatever the licence asks for."""
    return _note(home, manifest).exists()


def accept_use(home: Home, use_hash: bytes) -> None:
    """Remember that somebody accepts a swarm's text on acceptable use."""
    _remember(_use_note(home, use_hash))


def has_accepted_use(home: Home, use_hash: bytes) -> bool:
    return _use_note(home, use_hash).exists()


def _note(home: Home, manifest: Manifest) -> Path:
    licence = re.sub(r"[^a-z0-9.-]", "_", manifest.licence.lower()) or "unstated"
    return home.root / ACCEPTED / f"{manifest.digest.hex()}-{licence}"


def _use_note(home: Home, use_hash: bytes) -> Path:
    return home.root / ACCEPTED / f"use-{use_hash.hex()}"


def _remember(note: Path) -> None:
    note.parent.mkdir(mode=0o700, exist_ok=True)
    note.touch()


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_CARD_BYTES).decode(errors="replace")
    except OSError:
        return ""
