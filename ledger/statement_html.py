"""A statement as one HTML page: for people who print it, file it, or read it years later.

In: statement views, as `--json` prints them. Out: text, piece by piece. The page is whole in itself
(no script, nothing loaded), fits narrow screens and paper, follows the reader's light or dark, and
says how to check what it says. What peers wrote is escaped.
"""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from ledger.lines import moment
from ledger.worth import NO_CURRENCY, Worth

View = dict[str, Any]

STYLE = """
:root { color-scheme: light dark; --ink: #17211f; --soft: #55635f; --line: #c9d2ce; --ground: #fff;
  --band: #f3f6f4; --well: #12632d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edea; --soft: #a3b2ad; --line: #33434a;
  --ground: #10171a; --band: #182125; --well: #6fdc93; } }
@media print { :root { --ink: #000; --soft: #333; --line: #999; --ground: #fff; --band: #fff;
  --well: #000; } body { max-width: none; padding: 0; font-size: 9pt; }
  .scroll { overflow: visible; }
  thead { display: table-header-group; } tr { break-inside: avoid; } }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: var(--ink);
  background: var(--ground); max-width: 75rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: 0 0 .6rem; } .soft { color: var(--soft); } code { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .5rem 1.25rem;
  margin: .75rem 0; } dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin-bottom: .75rem; }
.scroll:focus-visible { outline: 3px solid var(--well); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: .25rem 0; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  white-space: nowrap; } thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
tbody tr:nth-child(even) { background: var(--band); } tfoot td, tfoot th { font-weight: 700; }
.number { text-align: right; } .earned { color: var(--well); } .mono { font-family: ui-monospace,
  "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: .85em; }
"""
HEADINGS = ("Ended (UTC)", "", "With", "Model", "Blocks", "Prompt", "Answer", "Cached", "Tokens")
NUMBERS_FROM = 5  # columns from here on are numbers


def statement_html(views: Sequence[View], worth: Worth, made: str) -> Iterator[str]:
    """
    Args:
        made: by what and when, in words.
    """
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    whose = " and ".join(str(view["peer"])[-8:] for view in views)
    yield f"<title>Manyhands: statement of {escape(whose)}</title>\n"
    yield f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>Manyhands: statement</h1>\n"
    yield f'<p class="soft">{escape(made)}</p>\n'
    for view in views:
        yield from _ledger(view, worth)
    yield "</main>\n</body>\n</html>\n"


def _ledger(view: View, worth: Worth) -> Iterator[str]:
    role = str(view["role"])
    title = {"node": "As a provider", "client": "As a client"}.get(role, role)
    yield f"<h2>{escape(title)}</h2>\n<p>Account <code>{escape(view['peer'])}</code>, "
    yield f"{_period(view['period'])}.</p>\n<dl>\n"
    for name, key in (
        ("Before", "opening_ncr"),
        ("Earned", "earned_ncr"),
        ("Spent", "spent_ncr"),
        ("After", "closing_ncr"),
    ):
        yield f"<div><dt>{name}</dt><dd>{_sum(view[key], worth)}</dd></div>\n"
    yield "</dl>\n"
    yield from _groups(view) if "groups" in view else _tabs(view, worth)
    yield from _proof(view)


def _tabs(view: View, worth: Worth) -> Iterator[str]:
    money = [worth.currency] if worth.currency != NO_CURRENCY else []
    has_states = any("state" in tab for tab in view["tabs"])  # where allotments pay
    states = ["State"] if has_states else []
    heads = (*HEADINGS, "Rate", "Amount", *money, *states, "Receipt")
    yield '<p class="soft">Work is in token-layers, rates in ncr for a million of them, amounts in '
    yield "ncr; tokens are those that went through these blocks.</p>\n"
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="Tabs, {view["role"]}">\n'
    yield f"<table>\n<caption>{len(view['tabs']):,} tabs</caption>\n"
    yield from _head(heads)
    for tab in view["tabs"]:
        yield _row(_cells(tab, worth, bool(money), has_states), tab["direction"])
    empty = len(heads) - 2 - bool(money) - has_states
    net, worthy = (
        view["net_ncr"],
        f'<td class="number">{_value(view["net_ncr"], worth).split()[0]}</td>',
    )
    yield f'</tbody>\n<tfoot><tr><th scope="row" colspan="{empty}">In all</th>'
    yield f'<td class="number">{net:+,}</td>{worthy if money else ""}'
    yield f"{'<td></td>' * (1 + has_states)}</tr></tfoot>\n"
    yield "</table>\n</div>\n"


def _cells(tab: View, worth: Worth, with_money: bool, with_state: bool) -> list[str]:
    meter, (low, high) = tab["meter"], tab["span"]
    work = meter["prefill_tl"] + meter["decode_tl"] + meter["cached_tl"]
    signed = tab["amount_ncr"] if tab["direction"] == "earned" else -tab["amount_ncr"]
    rate = f"{tab['amount_ncr'] * 10**6 // work:,}" if work else "–"
    money = [_value(signed, worth).split()[0]] if with_money else []
    return [
        moment(tab["closed_ms"]).strftime("%Y-%m-%d %H:%M"),
        tab["direction"],
        f'<span class="mono" title="{escape(tab["peer"])}">…{escape(tab["peer"][-8:])}</span>',
        f'<span class="mono" title="{tab["manifest"]}">{tab["manifest"][:8]}</span>',
        f"{low}–{high - 1}",
        *(f"{meter[name]:,}" for name in ("prefill_tl", "decode_tl", "cached_tl")),
        f"{work // (high - low):,}",
        rate,
        f"{signed:+,}" if signed else "0",
        *money,
        *([escape(tab.get("state", "closed"))] if with_state else []),
        f'<span class="mono" title="{tab["receipt"]}">{tab["receipt"][:12]}</span>',
    ]


def _groups(view: View) -> Iterator[str]:
    by = next(iter(view["groups"][0])) if view["groups"] else "nothing"
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="Sums, {view["role"]}">\n'
    yield f"<table>\n<caption>By {escape(by)}, in ncr; work in token-layers.</caption>\n"
    yield from _head((by.capitalize(), "Tabs", "Work", "Earned", "Spent", "Net"), numbers_from=1)
    for row in view["groups"]:
        numbers = ("n_tabs", "token_layers", "earned_ncr", "spent_ncr", "net_ncr")
        yield _row([escape(str(row[by])), *(f"{row[name]:,}" for name in numbers)], "", 1)
    yield "</tbody>\n</table>\n</div>\n"


def _head(heads: Iterable[str], numbers_from: int = NUMBERS_FROM) -> Iterator[str]:
    cells = "".join(
        f'<th scope="col"{_class(at, numbers_from)}>{escape(name) or "Direction"}</th>'
        for at, name in enumerate(heads)
    )
    yield f"<thead><tr>{cells}</tr></thead>\n<tbody>\n"


def _row(cells: Sequence[str], direction: str, numbers_from: int = NUMBERS_FROM) -> str:
    told = "".join(f"<td{_class(at, numbers_from)}>{cell}</td>" for at, cell in enumerate(cells))
    return f'<tr class="{direction}-line">{told}</tr>\n' if direction else f"<tr>{told}</tr>\n"


def _class(at: int, numbers_from: int) -> str:
    return ' class="number"' if at >= numbers_from else ""


def _proof(view: View) -> Iterator[str]:
    if view["open_tabs"]:
        yield f'<p class="soft">{view["open_tabs"]:,} more are open and not in it.</p>\n'
    head = view["head"]
    if head is not None:
        yield f'<p class="soft">Signed checkpoint of the log: {head["size"]:,} entries, root '
        yield f"<code>{head['root']}</code>.</p>\n"
    yield '<p class="soft">This page says; a bundle proves: <code>manyhands ledger export bundle '
    yield f"--role {escape(view['role'])} --out ledger.zip</code>, which anybody checks with "
    yield "<code>manyhands ledger verify ledger.zip</code>.</p>\n"


def _period(period: View) -> str:
    if not period["from"] and not period["to"]:
        told = "everything on record"
    else:
        told = f"{period['from'] or 'the beginning'} to {period['to'] or 'now'} (UTC)"
    chosen = [f"{name} {escape(str(period[name]))}" for name in ("peer", "model") if period[name]]
    return ", ".join([told, *chosen])


def _sum(ncr: int | None, worth: Worth) -> str:
    if ncr is None:
        return "unknown: receipts before it were erased"
    return f"{ncr:,} ncr" + (f" ({_value(ncr, worth)})" if worth.currency != NO_CURRENCY else "")


def _value(ncr: int, worth: Worth) -> str:
    sign = "-" if ncr < 0 else ""
    return f"{sign}{worth.of(abs(ncr))} {worth.currency}"
