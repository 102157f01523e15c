"""What was found about others, as JSON objects that commands print."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ledger.findings import FILE_NAME, Findings, KeptFault
from ledger.homes import ROLES
from ledger.judging import Finding
from ledger.lines import peer_name
from ledger.looks import Look
from ledger.reputation import Standing
from ledger.swarms import swarm_of
from ledger.verdicts import PARTS
from protocol.errors import IntegrityError
from protocol.signing import Envelope

Json = dict[str, Any]


def look_view(look: Look) -> Json:
    return {
        "number": look.number,
        "at": _moment(look.at_s) if look.at_s else None,
        "peer": peer_name(look.account),
        "manifest": look.manifest.hex(),
        "profile": look.profile,
        "span": [int(border) for border in look.span.split(":")],
        "tab": look.session_id.hex(),
        "window": look.window_no,
        "result": look.result,
        "confirmed": look.confirmed,
        "deviation": look.parts / PARTS,
    }


def standing_view(key: tuple[bytes, bytes, str], standing: Standing) -> Json:
    account, manifest, profile = key
    return {
        "peer": peer_name(account),
        "manifest": manifest.hex(),
        "profile": profile,
        "passed": round(standing.passed, 2),
        "failed": round(standing.failed, 2),
        "reputation": round(standing.reputation, 3),
    }


def finding_view(finding: Finding) -> Json:
    return {
        "kind": finding.kind,
        "accused": finding.accused.hex(),
        "peer": peer_name(finding.accused),
        "what": finding.what,
        "rests_on": [peer_name(auditor) for auditor in finding.auditors] or "its own signatures",
    }


def fault_view(kept: KeptFault) -> Json:
    return {
        "id": kept.id.hex(),
        "at": _moment(kept.at_s),
        **finding_view(kept.finding),
        "reporter": peer_name(kept.reporter),
    }


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")


def fault_views(home: Path, *, whole: bool = False) -> list[Json]:
    """The faults that a home keeps, each judged anew; `whole`: with all that is shown for them.

    Raises:
        IntegrityError, ConfigError: its findings cannot be used.
    """
    swarm_id, _ = swarm_of(home)
    kept: dict[bytes, KeptFault] = {}
    for directory in (home / role for role in ROLES):
        if (directory / FILE_NAME).exists():
            with Findings.open(directory, swarm_id) as findings:
                kept.update({each.id: each for each in findings.faults()})
    told = sorted(kept.values(), key=lambda each: each.at_s)
    return [fault_view(each) | ({"evidence": _shown(each)} if whole else {}) for each in told]


def _shown(kept: KeptFault) -> list[Json]:
    """Each piece: what it is, and its bytes."""
    pieces: list[Json] = []
    for piece in kept.fault.evidence:
        try:
            what = Envelope.decode(piece).type
        except IntegrityError:
            what = "place under a signed root"
        pieces.append({"what": what, "bytes": piece.hex()})
    return pieces
