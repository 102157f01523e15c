"""`manyhands` with switches that only the link lab needs: to know what a technique is worth, a node
that does without it; to know what guesses are worth, one that knows the answer.

    --lab-whole-prompts   a prompt is run in one step, and sent in one frame
    --lab-namespace NAME  in that network namespace

In: the command line of `manyhands`, and in ORACLE where the truth will be (`oracle_node.py`).
"""

import ctypes
import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

WHOLE = 1 << 30  # rows or bytes: more than any prompt has
_CLONE_NEWNET = 0x40000000


def enter(namespace: str) -> None:
    """From now on this thread's sockets, and those of threads that it starts, are made there.

    Raises:
        OSError: it may not, or there is none.
    """
    with Path(f"/run/netns/{namespace}").open() as opened:
        enter_again(opened.fileno())


def enter_again(namespace: int) -> None:
    """The same of an open one."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")


def main(arguments: list[str]) -> None:
    if namespace := _taken(arguments, "--lab-namespace"):
        enter(namespace)  # before anything starts a thread
    is_whole = "--lab-whole-prompts" in arguments
    if is_whole:
        arguments.remove("--lab-whole-prompts")
    from benchmarks.oracle_node import PERCENTS, Oracle, name_of
    from manyhands.cli import main as manyhands
    from node import schedule
    from node.drafting import DRAFTERS
    from protocol import links

    if "ORACLE" in os.environ:
        for percent in PERCENTS:
            DRAFTERS[name_of(percent / 100)] = partial(Oracle, percent / 100)
    if is_whole:
        schedule.PREFILL_ROWS = WHOLE
        schedule.MAX_STEP_US = float(WHOLE)
        links.PUSH_BYTES = links.CREDIT_BYTES = WHOLE
    sys.argv[1:] = arguments
    manyhands()


def _taken(arguments: list[str], name: str) -> str:
    """The value of that option, which is then gone."""
    if name not in arguments:
        return ""
    at = arguments.index(name)
    value = arguments[at + 1]
    del arguments[at : at + 2]
    return value


if __name__ == "__main__":
    main(sys.argv[1:])
