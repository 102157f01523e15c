"""Whether an answer is right: by the case's own rule, by a judge, or by people.

A rule says right or wrong of each side alone. A judge and people say which of two is better, or
that neither is; a judge is asked twice with the answers swapped, and where it contradicts itself
it has said nothing. What neither rule nor judge says anything of stays ungraded.
"""

import csv
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manyhands.comparing.cases import Case
from manyhands.comparing.side import MAX_TEXT_CHARS, Asking, Reply, Side, ask
from manyhands.progress import say
from protocol.errors import UsageError

if TYPE_CHECKING:
    import httpx2

BLIND_COLUMNS = ("id", "prompt", "answer_1", "answer_2", "better")
VERDICTS = {"1": 0, "2": 1, "tie": None}
JUDGE = """Two answers to the same request. Which is better? Reply with one word: 1, 2 or tie.

Request:
{request}

Answer 1:
{first}

Answer 2:
{second}"""


@dataclass(frozen=True, slots=True)
class Grade:
    """Of one case. right: of A and of B, where a rule told. better: 0 A, 1 B, None neither."""

    right: tuple[bool, bool] | None = None
    better: int | None = None
    is_graded: bool = True


UNGRADED = Grade(is_graded=False)


def by_rule(case: Case, replies: Sequence[Reply]) -> Grade:
    """For a case that grades itself. An answer that failed is wrong."""
    right = tuple(not reply.error and is_right(case, reply.text) for reply in replies)
    a, b = right[0], right[1]
    return Grade((a, b), None if a == b else (0 if a else 1))


def is_right(case: Case, text: str) -> bool:
    if case.expect is not None:
        return text.strip().casefold() == case.expect.strip().casefold()
    if case.regex is not None:
        return case.regex.search(text) is not None
    return _fits(case, text)


def _fits(case: Case, text: str) -> bool:
    from jsonschema import Draft202012Validator

    try:
        value = json.loads(text)
        return bool(Draft202012Validator(case.schema or {}).is_valid(value))
    except Exception:  # numbers without end, references that lead nowhere: it does not fit
        return False


async def by_judge(
    http: "httpx2.AsyncClient", judge: Side, case: Case, replies: Sequence[Reply]
) -> Grade:
    """Ask a third model, both ways round."""
    if any(reply.error for reply in replies):
        return UNGRADED
    verdicts = []
    for order in ((0, 1), (1, 0)):
        asked = JUDGE.format(
            request=case.messages[-1].get("content", ""),
            first=replies[order[0]].text,
            second=replies[order[1]].text,
        )
        question = Case(id=case.id, messages=({"role": "user", "content": asked},))
        reply = await ask(http, judge, question, Asking(max_tokens=8))
        word = reply.text.strip().strip(".").casefold()
        if reply.error or word not in VERDICTS:
            return UNGRADED
        picked = VERDICTS[word]
        verdicts.append(None if picked is None else order[picked])
    return Grade(None, verdicts[0]) if verdicts[0] == verdicts[1] else UNGRADED


def by_people(
    path: Path, cases: Sequence[Case], replies: Mapping[str, Sequence[Reply]], seed: int
) -> dict[str, Grade]:
    """What people wrote into the sheet; where there is none yet, it is written for them."""
    if path.exists():
        return read_blind(path, cases, seed)
    try:
        write_blind(path, cases, replies, seed)
    except OSError as error:
        say(f"warning: {path} cannot be written: {error.strerror}")
        return {}
    say(
        f"wrote {path}: fill in `better` with 1, 2 or tie, and run this again with --from "
        "and the report of this run"
    )
    return {}


def write_blind(
    path: Path, cases: Sequence[Case], replies: Mapping[str, Sequence[Reply]], seed: int
) -> None:
    """A sheet for people: which side an answer is from is drawn anew for each line."""
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        lines = csv.writer(file)
        lines.writerow(BLIND_COLUMNS)
        for case in cases:
            pair = [reply.text for reply in replies[case.id]]
            first, second = reversed(pair) if swapped(case.id, seed) else pair
            prompt = str(case.messages[-1].get("content", ""))
            lines.writerow(map(_unformula, (case.id, prompt, first, second, "")))


def read_blind(path: Path, cases: Sequence[Case], seed: int) -> dict[str, Grade]:
    """What people wrote under `better`: 1, 2, or tie. Empty: not graded.

    Raises:
        UsageError: it is no such sheet, or a line says something else.
    """
    known = {case.id for case in cases}
    grades: dict[str, Grade] = {}
    csv.field_size_limit(2 * MAX_TEXT_CHARS)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.DictReader(file)
            if not {"id", "better"} <= set(lines.fieldnames or ()):
                raise UsageError(f"{path} has no columns id and better")
            for at, line in enumerate(lines, 2):
                word = (line["better"] or "").strip().casefold()
                id = (line["id"] or "").removeprefix("'")
                if id not in known or not word:
                    continue
                if word not in VERDICTS:
                    raise UsageError(f"{path}, line {at}: better is {word[:20]!r}, not 1, 2 or tie")
                picked = VERDICTS[word]
                flipped = picked is not None and swapped(id, seed)
                grades[id] = Grade(None, 1 - picked if flipped and picked is not None else picked)
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return grades


def swapped(id: str, seed: int) -> bool:
    """Whether B's answer is shown first. A function of both, so that a sheet can be read back."""
    return random.Random(f"{seed}/{id}").random() < 0.5


def _unformula(text: str) -> str:
    """Spreadsheets compute what begins like a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text
