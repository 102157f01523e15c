"""Vectors that somebody else made, checked before a caller puts them into an index.

In: a body that should be OpenAI's list of embeddings, the number of texts. Out: the same, in the
order of the texts, or None: one vector too few moves all that come after it to other texts, and one
that holds no number is found near everything; neither is noticed for as long as the index lives.
"""

import binascii
from base64 import b64decode
from typing import Any

import numpy as np

from manyhands.event_stream import object_of

Json = dict[str, Any]


def vectors_of(data: bytes, n_texts: int, *, is_base64: bool) -> Json | None:
    """None: that is not exactly one finite vector of one length for each text."""
    told = object_of(data) or {}
    entries = told.get("data")
    if not isinstance(entries, list) or len(entries) != n_texts:
        return None
    by_index: dict[int, Json] = {}
    lengths = set[int]()
    for at, entry in enumerate(entries):
        if not isinstance(entry, dict) or type(index := entry.get("index", at)) is not int:
            return None
        by_index[index] = entry
        lengths.add(_length(entry.get("embedding"), is_base64=is_base64))
    if by_index.keys() != set(range(n_texts)) or len(lengths) != 1 or 0 in lengths:
        return None
    told["data"] = [{**by_index[index], "index": index} for index in range(n_texts)]
    return told


def _length(vector: Any, *, is_base64: bool) -> int:
    """0: it is none. Whoever wants base64 reads a list too, as OpenAI's clients do."""
    try:
        if isinstance(vector, list) and set(map(type, vector)) <= {int, float}:
            values = np.asarray(vector, dtype=np.float64)
        elif isinstance(vector, str) and is_base64:
            values = np.frombuffer(b64decode(vector, validate=True), "<f4").astype(np.float64)
        else:
            return 0
    except (OverflowError, ValueError, binascii.Error):
        return 0
    return len(values) if np.isfinite(values).all() else 0
