"""A real PostgreSQL server for the tests of one process, from Debian's `postgresql` package.

It runs without root, in a directory of its own, and listens on a socket there. Where the package is
missing, those who need it say so and skip.
"""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import quote

USERS = ("postgres", "nobody")  # initdb refuses root


def binaries() -> Path | None:
    """Where the newest server's programs are; None: it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


class Server:
    """Use `running`. `url` is its; `kill` and `start` are for tests of what then happens."""

    def __init__(self, programs: Path, directory: Path) -> None:
        self._programs, self._directory = programs, directory
        self._data = directory / "data"
        self._user = None if os.getuid() else _user()
        if self._user:
            os.chown(directory, pwd.getpwnam(self._user).pw_uid, -1)
        self.url = f"postgresql://test@/postgres?host={quote(str(directory), safe='')}"
        self._run("initdb", "-D", self._data, "-U", "test", "-A", "trust", "-E", "UTF8",
                  "--locale=C", "--no-sync", "--no-instructions")  # fmt: skip
        self._outlives_nobody()
        self.start()

    def start(self) -> None:
        # fsync: a test kills the server and never the machine, so what the kernel has is kept.
        options = f"-k {self._directory} -c listen_addresses= -c fsync=off -c shared_buffers=16MB"
        self._run("pg_ctl", "-D", self._data, "-s", "-w", "-t", "30",
                  "-l", self._directory / "log", "-o", options, "start")  # fmt: skip

    def kill(self) -> None:
        """Without a word to anybody."""
        pid = int((self._data / "postmaster.pid").read_text().split("\n")[0])
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.01)
        time.sleep(0.2)  # its children notice
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-s", "-w", "-m", "immediate", "stop", check=False)

    def _outlives_nobody(self) -> None:
        """When these tests are killed, the server ends too, and leaves nothing."""
        script = (
            f"while [ -d /proc/{os.getpid()} ] && [ -d {self._directory} ]; do sleep 1; done;"
            f" [ -d {self._directory} ] || exit 0;"
            f" kill -QUIT $(head -n 1 {self._data}/postmaster.pid); sleep 1;"
            f" rm -rf {self._directory}"
        )
        subprocess.Popen(["sh", "-c", script], start_new_session=True, stdout=subprocess.DEVNULL)

    def _run(self, program: str, *arguments: object, check: bool = True) -> None:
        command = [self._programs / program, *arguments]
        subprocess.run(
            list(map(str, command)),
            check=check,
            user=self._user,
            cwd=self._directory,
            env={"PATH": os.environ["PATH"], "LANG": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )


@contextmanager
def running() -> Iterator[Server]:
    programs = binaries()
    assert programs is not None
    memory = Path("/dev/shm")
    directory = Path(mkdtemp(prefix="mh-pg-", dir=memory if memory.is_dir() else None))
    server = None
    try:
        directory.chmod(0o755)
        server = Server(programs, directory)
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _user() -> str:
    names = {each.pw_name for each in pwd.getpwall()}
    return next(name for name in USERS if name in names)
