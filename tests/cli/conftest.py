"""`here`: the command in this very process, for what needs no process of its own."""

import os
import signal

import pytest

from manyhands.boundary import guarded
from manyhands.cli import root
from tests.cli.command import Ended


@pytest.fixture
def here(capfd, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MANYHANDS_")]:
        monkeypatch.delenv(name)

    def run(*arguments: object) -> Ended:
        before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = guarded(lambda: root.main(list(map(str, arguments)), standalone_mode=False))
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
        captured = capfd.readouterr()
        return Ended(code, captured.out, captured.err)

    return run
