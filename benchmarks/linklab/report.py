"""What came of a scenario, for people: a table, its goals, a picture.

In: a scenario and rows, ours and those laid beside. Out: Markdown text, SVG text.
"""

from collections.abc import Sequence

from benchmarks import drawing
from benchmarks.linklab.rows import Row, Verdict, floor, median, of
from benchmarks.linklab.scenario import TRANSFORMERS, Scenario

UNITS = {
    "ttft_ms": "ms to the first token",
    "tpot_ms": "ms per token of one session",
    "tokens_per_s": "tokens/s of all sessions together",
    "speed": "tokens/s of one session",
    "bytes_per_token": "bytes between peers per token",
    "pause_ms": "ms of the longest pause",
}
HEADING = (
    *("variant", "system", "sessions", "first token ms", "ms per token", "tokens/s of all"),
    *("computed ms", "bytes between peers", "links late ms", "same tokens", "load"),
)


def text(scenario: Scenario, rows: Sequence[Row], verdicts: Sequence[Verdict]) -> str:
    lines = [f"### {scenario.title}", "", *_table(HEADING, _cells(rows)), ""]
    if verdicts:
        heading = ("goal", "measured", "wanted", "holds")
        lines += _table(heading, [_goal_cells(verdict) for verdict in verdicts])
    return "\n".join(lines) + "\n"


def picture(scenario: Scenario, rows: Sequence[Row]) -> str:
    """Bars of what the scenario is about; a dashed line for its floor, if it has one."""
    measure = scenario.picture
    bars = {
        (name if system == "manyhands" else f"{name} ({system})"): median(
            [row for row in of(rows, name) if row.system == system], measure
        )
        for name, system in _names(rows)
    }
    marks = _floors(scenario, rows) if measure == "tpot_ms" else {}
    return drawing.bars(
        scenario.title,
        UNITS[measure],
        {"": bars},
        marks={"": max(marks.values())} if marks else None,
        mark_name="links of the ring and computing" if marks else "",
        digits=0 if max(bars.values()) >= 100 else 1,
    )


def _floors(scenario: Scenario, rows: Sequence[Row]) -> dict[str, float]:
    """Of variants that are measured against one."""
    wanted = {goal.of for goal in scenario.goals if goal.beside == "floor"}
    return {
        variant.name: floor(scenario, variant, of(rows, variant.name))
        for variant in scenario.variants
        if variant.name in wanted and variant.system != TRANSFORMERS
    }


def _names(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row.variant, row.system) for row in rows))


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    cells = []
    for name, system in _names(rows):
        mine = [row for row in of(rows, name) if row.system == system]
        same = {row.same_tokens for row in mine}
        cells.append(
            [
                name,
                system,
                str(mine[0].sessions),
                f"{median(mine, 'ttft_ms'):.0f}",
                f"{median(mine, 'tpot_ms'):.1f}",
                f"{median(mine, 'tokens_per_s'):.1f}",
                f"{median(mine, 'compute_ms'):.1f}",
                f"{median(mine, 'bytes_between'):,.0f}",
                f"{median(mine, 'late_ms'):.2f}",
                "no" if False in same else "yes" if True in same else "-",
                f"{median(mine, 'load'):.1f}",
            ]
        )
    return cells


def _goal_cells(verdict: Verdict) -> list[str]:
    value = "-" if verdict.value is None else f"{verdict.value:.3g}"
    holds = {True: "yes", False: "no", None: "-"}[verdict.holds]
    return [verdict.goal.name, value, str(verdict.goal), holds]


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """As `common.table` prints it."""
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
