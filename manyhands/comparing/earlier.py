"""The answers of an earlier comparison, from its JSON report: nobody is asked twice."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manyhands.comparing.cases import Case
from manyhands.comparing.comparison import SCHEMA
from manyhands.comparing.side import Reply
from protocol.errors import UsageError

MAX_BYTES = 1 << 30


def read_replies(path: Path, cases: Sequence[Case]) -> dict[str, Sequence[Reply]]:
    """Of both sides, by the case's id.

    Raises:
        UsageError: it is no such report, or one of other prompts.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is larger than a report is")
        report = json.loads(path.read_bytes())
        if report["schema"] != SCHEMA:
            raise UsageError(f"{path} is no report of `manyhands compare`")
        found = {case["id"]: [_reply(each) for each in case["replies"]] for case in report["cases"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as a report: {error}") from error
    missing = [case.id for case in cases if len(found.get(case.id, ())) != 2]
    if missing:
        raise UsageError(f"{path} has no answers to {', '.join(missing[:5])}")
    return {case.id: found[case.id] for case in cases}


def _reply(fields: Any) -> Reply:
    return Reply(
        text=str(fields["text"]),
        error=str(fields["error"]),
        ttft_ms=float(fields["ttft_ms"]),
        total_ms=float(fields["total_ms"]),
        n_prompt=int(fields["prompt_tokens"]),
        n_completion=int(fields["completion_tokens"]),
    )
