"""What every trial shares: checks that are told one by one. No package but the standard library."""

import json
import os
import sys
import traceback
from collections.abc import Callable

URL = os.environ["MANYHANDS_URL"]
API = f"{URL}/v1"
CHECKS: list[tuple[str, Callable[[], None]]] = []


def check(what: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Name a function that asserts something."""

    def keep(function: Callable[[], None]) -> Callable[[], None]:
        CHECKS.append((what, function))
        return function

    return keep


def run() -> None:
    """Run them all, a line of JSON each; the exit code says whether all held."""
    failed = False
    for what, function in CHECKS:
        try:
            function()
            why = ""
        except Exception as error:
            traceback.print_exc()
            failed, why = True, f"{type(error).__name__}: {error}"[:200]
        print("\n" + json.dumps({"what": what, "why": why}), flush=True)
    sys.stdout.flush()
    os._exit(int(failed))  # some clients leave threads behind
