"""A comparison as Markdown, as lines for a spreadsheet, and as a page with pictures.

In: the values of `Comparison.view`. Out: text. The page needs nothing from elsewhere, and what the
models said in it is text, whatever it looks like.
"""

import csv
import io
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

View = Mapping[str, Any]
UNSAFE = "=+-@\t\r"  # a spreadsheet takes what begins so for a formula

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #17211f; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
td, th { padding: .35rem .6rem; text-align: left; border-bottom: 1px solid #dbe1de;
  vertical-align: top; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: .85rem; }
.a { fill: #0f766e } .b { fill: #b45309 } .tie { fill: #9aa5a1 }
text { font: 14px system-ui, sans-serif; } .whisker { stroke: #17211f; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  body { background: #10171a; color: #e6edea; } td, th { border-color: #2c393d; }
  text { fill: #e6edea; } .whisker { stroke: #e6edea; }
}
"""


def markdown(view: View) -> str:
    """The summary, as tables."""
    lines = [f"# {title(view)}", "", verdict(view), "", "| | A | B |", "|---|---|---|"]
    lines += [f"| {name} | {_cell(a)} | {_cell(b)} |" for name, a, b in rows(view)]
    return "\n".join([*lines, "", _difference(view), ""])


def title(view: View) -> str:
    a, b = view["sides"]
    return f"A: {a['model']} against B: {b['model']}, {view['prompts']} prompts"


def verdict(view: View) -> str:
    """What the grades say, and whether chance would say so, too."""
    quality = view["quality"]
    if not quality["graded"]:
        return "No answer was graded: the prompts bring no rule, and nobody judged."
    a, b, neither = quality["a_better"], quality["b_better"], quality["neither"]
    told = f"A was better {a} times, B {b} times, neither {neither} times"
    if a == b:
        return f"{told}."
    likely = quality["by_chance"]
    word = "hardly chance" if likely < 0.05 else "may be chance"
    return (
        f"{told}. That {word}: so uneven a split comes about by chance alone with p = {likely:.3g}."
    )


def rows(view: View) -> list[tuple[str, str, str]]:
    """The summary, a line each."""
    a, b = view["sides"]
    named: list[tuple[str, Callable[[View], object]]] = [
        ("model", lambda side: side["model"]),
        ("where", lambda side: side["url"]),
        ("answered", lambda side: f"{side['answered']} of {side['answered'] + side['failed']}"),
        ("right, by rule", lambda side: _share(side["right"])),
        ("whole answer, p50", lambda side: _ms(side["total_ms_p50"])),
        ("whole answer, p95", lambda side: _ms(side["total_ms_p95"])),
        ("first token, p50", lambda side: _ms(side["ttft_ms_p50"])),
        ("tokens in, out", lambda side: f"{side['prompt_tokens']}, {side['completion_tokens']}"),
        ("cost", lambda side: side["cost"]),
        ("cost of a thousand", lambda side: side["cost_per_thousand"] or "–"),
    ]
    return [(name, str(of(a)), str(of(b))) for name, of in named]


def lines(view: View) -> str:
    """A line per prompt and side, for spreadsheets."""
    out = io.StringIO()
    written = csv.writer(out, lineterminator="\n")
    measured = ("ttft_ms", "total_ms", "prompt_tokens", "completion_tokens", "cost")
    written.writerow(["id", "side", "right", "better", *measured, "error", "text"])
    for case in view["cases"]:
        for at, reply in enumerate(case["replies"]):
            right = "" if case["right"] is None else int(case["right"][at])
            better = "" if not case["graded"] else int(case["better"] == "AB"[at])
            texts = [_plain(reply["error"]), _plain(reply["text"])]
            values = [reply[name] for name in measured]
            written.writerow([_plain(case["id"]), "AB"[at], right, better, *values, *texts])
    return out.getvalue()


def page(view: View) -> str:
    """One HTML file."""
    summary = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{escape(a)}</td><td>{escape(b)}</td></tr>"
        for name, a, b in rows(view)
    )
    cases = "".join(_case_row(case) for case in view["cases"])
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title(view))}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(title(view))}</h1><p>{escape(verdict(view))}</p>{_votes(view)}"
        f"<table><thead><tr><th></th><th scope='col'>A</th><th scope='col'>B</th></tr></thead>"
        f"<tbody>{summary}</tbody></table><p>{escape(_difference(view))}</p>{_latencies(view)}"
        "<h2>Every prompt</h2><table><thead><tr><th scope='col'>Prompt</th><th scope='col'>A</th>"
        f"<th scope='col'>B</th><th scope='col'>Better</th></tr></thead><tbody>{cases}</tbody>"
        "</table></body></html>\n"
    )


def _case_row(case: View) -> str:
    cells = "".join(
        f"<td><pre>{escape(r['error'] or r['text'])}</pre></td>" for r in case["replies"]
    )
    better = case["better"] or ("neither" if case["graded"] else "not graded")
    return f"<tr><th scope='row'>{escape(case['id'])}</th>{cells}<td>{escape(better)}</td></tr>"


def _votes(view: View) -> str:
    """A bar: how often A was better, neither, B."""
    quality = view["quality"]
    if not quality["graded"]:
        return ""
    parts, at = [], 0.0
    for kind, name in (("a", "a_better"), ("tie", "neither"), ("b", "b_better")):
        width = 600 * quality[name] / quality["graded"]
        parts.append(f"<rect class='{kind}' x='{at:.1f}' y='4' width='{width:.1f}' height='28'/>")
        at += width
    meaning = escape(verdict(view))
    label = (
        "<text x='0' y='52'>A better</text><text x='600' y='52' text-anchor='end'>B better</text>"
    )
    return (
        f"<svg viewBox='0 0 600 60' role='img' aria-label='{meaning}'>{''.join(parts)}{label}</svg>"
    )


def _latencies(view: View) -> str:
    """The median of a whole answer, with its interval."""
    shown = [(side["name"], side["total_ms_p50"]) for side in view["sides"]]
    if any(estimate is None for _, estimate in shown):
        return ""
    scale = 480 / (max(estimate["high"] for _, estimate in shown) or 1)
    parts = []
    for at, (name, estimate) in enumerate(shown):
        y = 8 + at * 40
        low, high = (30 + estimate[end] * scale for end in ("low", "high"))
        parts.append(
            f"<text x='0' y='{y + 19}'>{name}</text><rect class='{name.lower()}' x='30' y='{y}' "
            f"width='{estimate['value'] * scale:.1f}' height='26'/><line class='whisker' "
            f"x1='{low:.1f}' x2='{high:.1f}' y1='{y + 13}' y2='{y + 13}'/>"
            f"<text x='{high + 8:.1f}' y='{y + 19}'>{_ms(estimate)}</text>"
        )
    words = ", ".join(f"{name}: {_ms(estimate)}" for name, estimate in shown)
    opening = f"<svg viewBox='0 0 760 90' role='img' aria-label='Median time: {words}'>"
    return f"{opening}{''.join(parts)}</svg>"


def _difference(view: View) -> str:
    found = view["latency_difference_ms"]
    if found is None:
        return "No prompt was answered by both."
    return (
        f"B takes {found['value']:+.1f} ms longer on average, between {found['low']:+.1f} and "
        f"{found['high']:+.1f} ms with a confidence of 95 %."
    )


def _share(estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate['value']:.1%} ({estimate['low']:.1%} to {estimate['high']:.1%})"


def _ms(estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate['value']:.0f} ms ({estimate['low']:.0f} to {estimate['high']:.0f})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _plain(text: str) -> str:
    return f"'{text}" if text[:1] in UNSAFE else text
