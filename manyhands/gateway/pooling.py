"""How a checkpoint wants one vector made of a text: sentence-transformers' own files say so.

In: a model's directory. Out: `mean` or `last`, as `protocol.pooling` does them; `mean` where no
file says anything. Peers hand no such file on: where the weights are not here, the caller has to
know.
"""

import json
from pathlib import Path
from typing import Any

from manyhands.gateway.faults import ApiError

MAX_BYTES = 1 << 20
KINDS = {"mean": "mean", "mean_tokens": "mean", "lasttoken": "last"}
MODULES = ("Transformer", "Pooling", "Normalize")


def pooling_of(directory: Path) -> str:
    """
    Raises:
        ApiError: it wants what no hop does: another pooling, or layers behind it.
    """
    modules = _read(directory / "modules.json")
    kinds = [str(each.get("type")) for each in modules if isinstance(each, dict)]
    if unknown := [kind for kind in kinds if kind.rpartition(".")[2] not in MODULES]:
        raise _unsupported(f"layers of the kind {unknown[0][:80]} behind its blocks")
    pooling = _read(directory / "1_Pooling" / "config.json")
    if not isinstance(pooling, dict):
        return "mean"
    prefix = "pooling_mode_"
    wanted = [
        name.removeprefix(prefix)
        for name, is_on in pooling.items()
        if name.startswith(prefix) and is_on is True
    ]
    if isinstance(named := pooling.get("pooling_mode"), str):  # since version 5
        wanted = [named]
    found = {KINDS.get(name, "") for name in wanted} or {"mean"}
    if len(found) > 1 or not all(found):
        raise _unsupported(f"pooling by {', '.join(wanted)[:80]}")
    return found.pop()


def _unsupported(what: str) -> ApiError:
    return ApiError("unsupported_value", f"this model wants {what}", param="model")


def _read(path: Path) -> Any:
    """What the file holds; nothing where there is none, or where it is not JSON."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return []
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return []
