"""The programs that are measured, from the side of who measures: started, asked, ended.

In: a command of `programs/`. Out: answers with the times of their tokens. Each program has a
process group of its own; it ends when its input does, and what it leaves behind is told.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_S, ANSWER_S, END_S, LOOK_S = 240.0, 600.0, 40.0, 0.02
DYING_S = 2.0  # for those that the program killed as it ended
PROGRAMS = Path(__file__).with_name("programs")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
LINE_BYTES = 16 << 20


class Failed(Exception):
    """A program ended, or fell silent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """at_s: when each token came, on the monotonic clock."""

    asked_s: float
    ids: tuple[int, ...]
    at_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.ids or len(self.ids) != len(self.at_s):
            raise ValueError(f"{len(self.ids)} tokens came at {len(self.at_s)} times")

    @property
    def first_token_s(self) -> float:
        return self.at_s[0] - self.asked_s

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Answer":
        return cls(told["asked_s"], tuple(told["ids"]), tuple(told["at_s"]))


class Program:
    """One process, with its group. Use `running`."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process, self.log = process, log
        self.n_left = 0  # of its processes, when it had ended

    async def answers(self, prompts: Sequence[Sequence[int]], n_tokens: int) -> list[Answer]:
        """
        Raises:
            Failed: it did not answer.
        """
        asked = json.dumps({"prompts": [list(prompt) for prompt in prompts], "n_tokens": n_tokens})
        assert self.process.stdin is not None
        with suppress(BrokenPipeError, ConnectionResetError):
            self.process.stdin.write(asked.encode() + b"\n")
            await self.process.stdin.drain()
        told = await self.line(ANSWER_S)
        return [Answer.from_json(each) for each in told["answers"]]

    async def line(self, timeout_s: float) -> dict[str, Any]:
        """What it says next.

        Raises:
            Failed: nothing.
        """
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                line = await self.process.stdout.readline()
        except TimeoutError as error:
            raise Failed(f"nothing was said for {timeout_s:g} s; look into {self.log}") from error
        if not line:
            raise Failed(f"a program ended by itself; look into {self.log}")
        told: dict[str, Any] = json.loads(line)
        return told

    async def end(self) -> None:
        """Close its input, wait, and see to it that nothing is left."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            async with asyncio.timeout(END_S):
                await self.process.wait()
        except TimeoutError:
            self.n_left += 1
        for _ in range(int(DYING_S / LOOK_S)):
            if not self._others():
                break
            await asyncio.sleep(LOOK_S)
        self.n_left += len(self._others())
        while members(self.process.pid):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            await asyncio.sleep(LOOK_S)
        await self.process.wait()

    def _others(self) -> set[int]:
        return members(self.process.pid) - {self.process.pid}


@asynccontextmanager
async def running(log: Path, *command: str) -> AsyncIterator[Program]:
    """A program in a group of its own; on the way out it is over."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as written:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=written,
            env=_environment(),
            start_new_session=True,
            limit=LINE_BYTES,
        )
    program = Program(process, log)
    try:
        yield program
    finally:
        await asyncio.shield(program.end())


def members(group: int) -> set[int]:
    """The processes of a group that are not over."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                found.add(int(stat.parent.name))
    return found


def _environment() -> dict[str, str]:
    """Ours without paths of ours, which are not for another interpreter."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return ours | OFFLINE | ONE_THREAD
