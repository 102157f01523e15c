"""What `test_elsewhere.py` runs where Unix's own is gone: locks, files, signals, limits."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ledger.owners import Owner, if_gone
from manyhands.boundary import Interrupted
from manyhands.home import Home
from manyhands.loops import new_runner
from manyhands.machine import file_limits, raise_file_limit
from manyhands.running import Running, found_running, recorded
from manyhands.signals import interruptible
from manyhands.weights.store import free_disk_bytes
from protocol.errors import HomeInUse
from protocol.file_lock import HAS_FLOCK
from protocol.files import BINARY, read_at, read_into, write_at
from protocol.identity import load_or_create_identity


def locks(place: Path) -> None:
    home = Home.at(place / "home")
    with home.sole_node():
        again = subprocess.run(
            [sys.executable, sys.argv[2], __file__, str(place), "", "second"], check=False
        )
    assert again.returncode == 3, again.returncode
    with home.sole_node():  # it was let go
        pass
    ours = Running(command="serve", pid=os.getpid(), model="tiny", addresses=())
    with recorded(home, ours):
        left = home.root / "running" / "serve-1.json"
        left.write_text(json.dumps({"command": "serve", "pid": 1, "model": "x", "addresses": []}))
        asked = subprocess.run(
            [sys.executable, sys.argv[2], __file__, str(place), "", "running"],
            capture_output=True,
            check=True,
        )
        assert json.loads(asked.stdout) == [os.getpid()]
        assert not left.exists()
    assert found_running(home) == []


def owners(place: Path) -> None:
    owner, closed = Owner(place), []
    owner.hold()
    owner.release()
    assert if_gone(place, owner.name, lambda: closed.append(1))
    assert closed
    assert not list(place.glob("tabs-*"))


def files(place: Path) -> None:
    path = place / "bytes"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o600)
    assert write_at(descriptor, b"xxxx", 0) == 4
    assert write_at(descriptor, b"\n\r", 1) == 2
    view = memoryview(bytearray(3))
    assert (read_at(descriptor, 2, 1), read_into(descriptor, view, 1)) == (b"\n\r", 3)
    assert (bytes(view), read_into(descriptor, view, 4)) == (b"\n\rx", 0)
    os.close(descriptor)
    assert free_disk_bytes(place / "not" / "yet") > 0
    assert path.read_bytes() == b"x\n\rx"
    identity = load_or_create_identity(place / "keys" / "identity.key")
    assert load_or_create_identity(place / "keys" / "identity.key").peer_id == identity.peer_id


def signals() -> None:
    async def waits() -> None:
        asked = asyncio.Event()
        with interruptible(asked.set):
            threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            await asyncio.wait_for(asked.wait(), 5)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as interrupted, new_runner() as runner:
        runner.run(waits())
    assert interrupted.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) == before


def limits() -> None:
    assert file_limits() is None
    raise_file_limit()


def main() -> None:
    place, task = Path(sys.argv[1]), sys.argv[3] if len(sys.argv) > 3 else ""
    assert not HAS_FLOCK
    assert not hasattr(os, "pread")
    assert not hasattr(signal, "SIGKILL")
    if task == "second":
        try:
            with Home.at(place / "home").sole_node():
                return
        except HomeInUse:
            sys.exit(3)
    if task == "running":
        sys.stdout.write(json.dumps([each.pid for each in found_running(Home.at(place / "home"))]))
        return
    for each in (locks, owners, files):
        each(place)
    signals()
    limits()
    sys.stdout.write("all of it\n")


main()
