#!/usr/bin/env python3
"""Write down what a short session says on the wire, byte by byte: `record_transcript.py OUT`.

A swarm of two nodes and a client runs over real sockets, and whatever one of them sends another is
kept: calls of gossip and load, control streams, data streams, and at the end what they signed. The
keys of the three are kept too, so that a test can play any of them again: they are of this
transcript alone. Run it in a checkout of the version to be kept; `tests/transcripts/` has one
directory per version, which `tests/test_transcripts.py` plays against the present one.
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, ".")

from ledger.reader import LedgerReader
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from scheduler.wanted import Limits
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer, whole

PROMPT = [(37 * i) % 250 for i in range(12)]
N_TOKENS = 8
KEPT = ("gossip", "load", "control", "data")
MOST_CALLS = 6  # of one kind, by one peer to another
SETTLE_S = 1.5  # for gossip, so that announcements are among what is said


class Tape:
    """Everything said, in the order in which it was."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.names: dict[str, str] = {}
        self._n_calls: dict[tuple[str, str, str], int] = {}
        self._n_streams = 0

    def call(self, one: str, other: str, method: str, request: bytes, answer: bytes) -> None:
        of_kind = (one, other, method)
        self._n_calls[of_kind] = self._n_calls.get(of_kind, 0) + 1
        if method in KEPT and self._n_calls[of_kind] <= MOST_CALLS:
            said = {"call": method, "from": one, "to": other, "request": request.hex()}
            self.events.append({**said, "answer": answer.hex()})

    def stream(self, method: str, one: str, other: str) -> int:
        self._n_streams += 1
        if method in KEPT:
            opened = {"open": method, "stream": self._n_streams, "from": one, "to": other}
            self.events.append(opened)
        return self._n_streams if method in KEPT else 0

    def message(self, stream: int, way: str, message: bytes) -> None:
        if stream:
            self.events.append({"stream": stream, way: message.hex()})

    def named(self) -> list[dict[str, Any]]:
        """With names for the peers."""
        return [
            {key: self.names.get(value, value) if key in ("from", "to") else value
             for key, value in event.items()}
            for event in self.events
        ]  # fmt: skip


class TapedStream:
    def __init__(self, stream: Any, tape: Tape, number: int) -> None:
        self._stream, self._tape, self._number = stream, tape, number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def send(self, message: bytes) -> None:
        self._tape.message(self._number, "said", bytes(message))
        self._stream.send(message)

    async def receive(self) -> bytes:
        message: bytes = await self._stream.receive()
        self._tape.message(self._number, "heard", bytes(message))
        return message


class TapedConnection:
    def __init__(self, connection: Any, tape: Tape, own: str) -> None:
        self._connection, self._tape, self._own = connection, tape, own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def call(self, method: str, request: bytes, *, timeout_s: float) -> bytes:
        answer: bytes = await self._connection.call(method, request, timeout_s=timeout_s)
        self._tape.call(self._own, self._connection.peer_id, method, request, answer)
        return answer

    async def open(self, method: str, *, timeout_s: float = 5.0) -> TapedStream:
        stream = await self._connection.open(method, timeout_s=timeout_s)
        number = self._tape.stream(method, self._own, self._connection.peer_id)
        return TapedStream(stream, self._tape, number)


class TapedTransport(GrpcTransport):
    tape: Tape

    async def dial(self, address: Any, *, timeout_s: float = 5.0) -> Any:
        connection = await super().dial(address, timeout_s=timeout_s)
        return TapedConnection(connection, self.tape, self.peer_id)


async def record(home: Path) -> dict[str, Any]:
    tape = Tape()

    def taped(identity: Any) -> Any:
        transport = TapedTransport(identity, OPEN_SWARM_ID)
        transport.tape = tape
        return transport

    model = home / "model"
    model.mkdir()
    built = Swarm(add_byte_tokenizer(write_checkpoint(model)), home, taped)
    try:
        await built.start((0, 3), (3, 6), region="eu")
        await asyncio.sleep(SETTLE_S)
        async with built.client() as client:
            limits = Limits(regions=("eu",)) if "--constraints" in sys.argv else Limits()
            asked = built.request(
                PROMPT, max_tokens=N_TOKENS, ignore_eos=True, spares=False, limits=limits
            )
            result = await whole(client.generate(asked))
            tape.names[client.identity.peer_id] = "client"
            greeting = client.transport._admission.greeting.metadata
            seeds = {"client": client.identity.key.seed.hex()}
        for name, local in zip(("first", "last"), built.nodes, strict=True):
            tape.names[local.node.identity.peer_id] = name
            seeds[name] = local.node.identity.key.seed.hex()
        with LedgerReader.read(home / "client") as books:
            ids = map(bytes.fromhex, result.receipts)
            receipts = [books.receipt(each).encode().hex() for each in ids]
        entries = [entry.data for local in built.nodes for entry in _held(local)]
        return {
            "schema": "manyhands/transcript/v1",
            "recorded_ms": time.time_ns() // 1_000_000,
            "swarm_id": OPEN_SWARM_ID.hex(),
            "greeting": [list(pair) for pair in greeting],
            "manifest": built.manifest.digest.hex(),
            "n_blocks": built.manifest.n_blocks,
            "seeds": seeds,
            "prompt_ids": PROMPT,
            "token_ids": list(result.token_ids),
            "announcements": sorted({data.hex() for data in entries if data}),
            "receipts": receipts,
            "events": tape.named(),
        }
    finally:
        await built.aclose()


def _held(local: Any) -> Any:
    return local.node.gossip.table.entries.values()


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: record_transcript.py OUT.json [--constraints]")
    with tempfile.TemporaryDirectory() as home:
        transcript = asyncio.run(record(Path(home)))
    out = Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n  ".join(json.dumps(event) for event in transcript.pop("events"))
    head = json.dumps(transcript, indent=1).removesuffix("\n}")
    out.write_text(f'{head},\n "events": [\n  {lines}\n ]\n}}\n')
    print(f"{out}: {out.stat().st_size} bytes, {transcript['token_ids']}")


if __name__ == "__main__":
    main()
