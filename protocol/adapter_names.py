"""What an adapter is called: `name@digest`, the same on every hop of a chain.

In: what a person wrote, a peer announced or a client asks for. Out: the parts, or a refusal. A name
is plain, so that it can be a directory's and stand on a terminal; the digest is the beginning of a
sha256 over the adapter's files, so that two hops never mix two versions of one name. What an
adapter does to a model is the engine's affair.
"""

import re

DIGEST_CHARS = 12
MAX_ADAPTERS = 32  # of one node
MAX_CHARS = 80

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(rf"[0-9a-f]{{{DIGEST_CHARS}}}")


def is_name(text: str) -> bool:
    """Whether `text` may name an adapter: 1 to 64 letters, digits and `._-`, and no path."""
    return _NAME.fullmatch(text) is not None


def is_pinned(text: str) -> bool:
    """Whether `text` is a whole `name@digest`."""
    name, at, digest = text.partition("@")
    return bool(at) and is_name(name) and _DIGEST.fullmatch(digest) is not None


def is_adapter(text: str) -> bool:
    """Whether `text` is a name, with or without its digest."""
    return is_name(text) or is_pinned(text)


def pinned(name: str, sha256: bytes) -> str:
    return f"{name}@{sha256.hex()[:DIGEST_CHARS]}"


def bare(text: str) -> str:
    """The name without its digest."""
    return text.partition("@")[0]
