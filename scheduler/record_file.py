"""A client's record of its peers on disk, so that the next process begins with what this one saw.

In: a file of the client's home. Out: records, and the file again, replaced whole. Several clients
share a home: whoever writes takes over what the others have written meanwhile. A file that cannot
be read, or holds nonsense, is no reason to fail: the client then begins with nothing.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from protocol.errors import ManyhandsError
from protocol.identity import PeerId
from scheduler.blame import Leg, Ride
from scheduler.peer_record import MAX_PEERS, PeerRecords, Standing

log = logging.getLogger(__name__)

SCHEMA = "manyhands/peer-record/v1"
MAX_BYTES = 4 << 20
NONSENSE = OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError


@contextmanager
def kept_records(path: Path) -> Iterator[PeerRecords]:
    """The records in `path`, and what was seen meanwhile written back on the way out."""
    records = read_records(path)
    try:
        yield records
    finally:
        write_records(path, records)


def read_records(path: Path) -> PeerRecords:
    records = PeerRecords()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path} is too large")
        _fill(records, json.loads(path.read_bytes()))
    except FileNotFoundError:
        pass
    except (*NONSENSE, ManyhandsError) as error:
        log.warning("the record of peers cannot be read", extra={"reason": str(error)})
        return PeerRecords()
    return records


def write_records(path: Path, records: PeerRecords) -> None:
    """Never raises: a full disk costs the memory of this run, nothing else."""
    records.take_over(read_records(path))
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        scratch.write_text(json.dumps(_dump(records)))
        scratch.chmod(0o600)
        scratch.replace(path)
    except OSError as error:
        log.warning("the record of peers cannot be written", extra={"reason": str(error)})
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def _dump(records: PeerRecords) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "rides": [
            {
                "at_s": ride.at_s,
                "n_tokens": ride.n_tokens,
                "token_ms": ride.token_ms,
                "besides_ms": ride.besides_ms,
                "legs": [[leg.peer, leg.n_blocks, leg.block_ms, leg.alone_ms] for leg in ride.legs],
            }
            for ride in records.rides
        ],
        "standings": {
            peer: [s.at_s, s.failures, s.served, s.failed_at_s, s.gone_since]
            for peer, s in records.standings.items()
        },
    }


def _fill(records: PeerRecords, data: Any) -> None:
    if data["schema"] != SCHEMA:
        raise ValueError(f"a record of another kind: {data['schema']!r:.40}")
    for ride in data["rides"]:
        legs = tuple(
            Leg(PeerId(str(peer)), int(n), float(block_ms), float(alone_ms))
            for peer, n, block_ms, alone_ms in ride["legs"]
        )
        known = Ride(
            float(ride["at_s"]),
            int(ride["n_tokens"]),
            float(ride["token_ms"]),
            float(ride["besides_ms"]),
            legs,
        )
        records.keep(known)
    for peer, values in list(data["standings"].items())[:MAX_PEERS]:
        at_s, failures, served, failed_at_s, gone_since = values
        records.standings[PeerId(str(peer))] = Standing(
            float(at_s),
            float(failures),
            float(served),
            float(failed_at_s),
            None if gone_since is None else int(gone_since),
        )
