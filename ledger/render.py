"""The ledger commands' views, as tables for people."""

from typing import Any

from rich.console import Console
from rich.table import Table

from ledger.checkpoint import Checkpoint
from ledger.days import day_name
from ledger.lines import moment
from ledger.receipts import ClosedTab
from ledger.tables import SHORTEST, add_numbers, new_table, print_table

View = dict[str, Any]

SHOWN_FAILURES = 20


def balance(view: View) -> None:
    out = Console()
    for book in view["ledgers"]:
        table = new_table(f"{book['role']} · {book['peer']}", "peer")
        add_numbers(table, "tabs", "earned ncr", "spent ncr", "net ncr")
        for row in book["balances"]:
            amounts = (row["earned_ncr"], row["spent_ncr"], row["net_ncr"])
            table.add_row(row["peer"], str(row["tabs"]), *map(_amount, amounts))
        totals = (book["earned_ncr"], book["spent_ncr"], book["net_ncr"])
        table.add_section()
        n_tabs = sum(row["tabs"] for row in book["balances"])
        table.add_row("in all", str(n_tabs), *map(_amount, totals), style="bold")
        print_table(out, table)
    if day := view.get("as_of"):
        out.print(f"as of the end of {day}, UTC", style="dim", highlight=False)
    for account in view.get("credit", ()):
        _credit(out, account)


def _credit(out: Console, account: View) -> None:
    """What an account has of an issuer's credit, and as of when."""
    out.print(f"{account['role']} · credit of {account['issuer']}", style="bold")
    amounts = (("available", "available_ncr"), ("held", "held_ncr"))
    for name, field in (*amounts, ("allotted to us", "allotted_to_us_ncr")):
        out.print(f"  {name:<15}{_amount(account[field]):>22} ncr", highlight=False)
    if account["is_forked"]:
        out.print("  [red]two versions of its log were shown[/]: nobody takes new business from it")
    if (known := account["as_of"]) is not None:
        when = moment(1000 * known["time_s"]).strftime("%Y-%m-%d %H:%M") if known["time_s"] else "?"
        text = f"  as of entry {known['entries']} of its log, signed by {known['witnesses']}"
        out.print(f"{text} witnesses of {known['quorum']} needed, {when} UTC", style="dim")
    else:
        out.print("  as heard so far: manyhands ledger sync asks again", style="dim")


def statement(view: View) -> None:
    out = Console()
    for book in view["ledgers"]:
        print_table(out, _groups(book) if "groups" in book else _tabs(book))
        opening, closing = _amount(book["opening_ncr"]), _amount(book["closing_ncr"])
        spent, earned = _amount(book["spent_ncr"]), _amount(book["earned_ncr"])
        out.print(f"before {opening} ncr, earned {earned}, spent {spent}, after {closing} ncr")
        if book.get("credit_ncr"):
            off = _amount(book["credit_ncr"])
            out.print(f"{off} ncr that credit notes take off are taken off these sums", style="dim")
        if money := book.get("money"):
            in_money = "before {opening}, earned {earned}, spent {spent}, after {closing}"
            out.print(f"{in_money.format(**money)} {money['currency']}")
        worth = book.get("model_tokens")
        in_all = f", as much as {worth} tokens of whole models" if worth not in (None, "0") else ""
        out.print(f"work in token-layers{in_all}; times in UTC", style="dim")
        if book["open_tabs"]:
            out.print(f"{_many(book['open_tabs'], 'tab is', 'tabs are')} still open", style="dim")


def _tabs(book: View) -> Table:
    table = new_table(f"{book['role']} · {book['peer']}", "receipt", is_wide=True)
    table.add_column("closed")
    table.add_column("with", overflow="fold", min_width=SHORTEST)
    table.add_column("blocks", no_wrap=True)
    add_numbers(table, "prefill", "decode", "ncr")
    has_states = any("state" in tab for tab in book["tabs"])  # where allotments pay
    if has_states:
        table.add_column("state")
    for tab in book["tabs"]:
        sign = "+" if tab["direction"] == "earned" else "−"
        table.add_row(
            tab["receipt"][:12],
            moment(tab["closed_ms"]).strftime("%Y-%m-%d %H:%M"),
            _short(tab["peer"]),
            "{}:{}".format(*tab["span"]),
            f"{tab['meter']['prefill_tl']:,}",
            f"{tab['meter']['decode_tl']:,}",
            f"{sign}{tab['amount_ncr']:,}" if tab["amount_ncr"] else "0",
            *([_state(tab)] if has_states else []),
        )
    return table


def _state(tab: View) -> str:
    state, credit = str(tab.get("state", "closed")), tab.get("credit_ncr", 0)
    return f"{state}, {credit:,} ncr off" if credit else state


def _groups(book: View) -> Table:
    names = [name for row in book["groups"][:1] for name in row]
    by = names[0] if names else "nothing"
    table = new_table(f"{book['role']} · {book['peer']}", by)
    add_numbers(table, "tabs", "work", "earned ncr", "spent ncr", "net ncr")
    for row in book["groups"]:
        numbers = ("n_tabs", "token_layers", "earned_ncr", "spent_ncr", "net_ncr")
        table.add_row(row[by], *(_amount(row[name]) for name in numbers))
    return table


def bundle(view: View) -> None:
    out = Console(soft_wrap=True)
    out.print(f"[green]✓[/] {_many(view['n_tabs'], 'receipt', 'receipts')} of {view['peer']}")
    out.print(f"  in swarm {view['swarm_name']} ({view['swarm'][:16]}…)", highlight=False)
    counts = _many(view["size"], "entry", "entries")
    out.print(f"  every signature, amount and path holds, under the signed root of {counts}")
    earned, spent = _amount(view["earned_ncr"]), _amount(view["spent_ncr"])
    work = _amount(view["token_layers"])
    out.print(f"  earned {earned} ncr, spent {spent} ncr, for {work} token-layers")
    if view["whole"]:
        out.print("  it holds the whole log: nothing was left out of it", style="dim")
    else:
        out.print("  a choice of the log: what else there is, it does not say", style="dim")
    if view["account"]:
        out.print(f"  its key acts for account {view['account']}", highlight=False)
        if view["account_events"] == "its own":
            out.print("  as of its own key events: what was revoked since: --events")
    if view["beyond_account"]:
        late = _many(view["beyond_account"], "receipt is", "receipts are")
        out.print(f"  [yellow]but {late} dated later than it may[/]: the key's own alone")
    out.print("  compare the peer id with the one you know: anybody can make a log", style="dim")


def keys(view: View) -> None:
    out = Console(soft_wrap=True)
    out.print(f"account  {view['account']}", highlight=False)
    out.print(f"root key {view['root_key'][:16]}…, the next one is committed to", highlight=False)
    out.print(f"{_many(view['events'], 'key event', 'key events')}, all of which hold")
    table = new_table("", "key", "may", "until")
    add_numbers(table, "unsettled ncr")
    table.add_column("state", overflow="fold", min_width=SHORTEST)
    for row in view["keys"]:
        state = "acts" if row["revoked"] is None else f"revoked by event {row['revoked']}"
        may, until = ", ".join(row["scopes"]), day_name(row["not_after_epoch"])
        table.add_row(row["peer"], may, until, _amount(row["max_exposure_ncr"]), state)
    if view["keys"]:
        print_table(out, table)


def report(view: View) -> None:
    out = Console(soft_wrap=True)
    for book in view["ledgers"]:
        counts = f"{_many(book['entries'], 'entry', 'entries')}, "
        counts += f"{_many(book['checkpoints'], 'checkpoint', 'checkpoints')}, "
        counts += _many(book["open_tabs"], "open tab", "open tabs")
        if book["ok"]:
            out.print(f"[green]✓[/] {book['role']} · {book['peer']}: {counts}")
            out.print("  every signature, amount, leaf, checkpoint and proof holds", style="dim")
            if book["pruned"]:
                text = f"  of {_many(book['pruned'], 'entry', 'entries')} the receipt was pruned"
                out.print(f"{text}: leaf and sums are checked, nothing else", style="dim")
            continue
        out.print(f"[red]✗[/] {book['role']} · {book['peer']}: {counts}")
        for failure in book["failures"][:SHOWN_FAILURES]:
            entry = "" if failure["entry"] is None else f"entry {failure['entry']} "
            which = f"(receipt {failure['receipt'][:16]}…) " if failure["receipt"] else ""
            text = f"  {entry}{which}{failure['part']}: {failure['reason']}"
            out.print(text, markup=False, highlight=False)
        if len(book["failures"]) > SHOWN_FAILURES:
            out.print(f"  and {len(book['failures']) - SHOWN_FAILURES} more: see --json")


def proof(view: View, head: Checkpoint, tab: ClosedTab, payer: str, payee: str) -> None:
    out = Console(soft_wrap=True)
    out.print(f"[green]✓[/] receipt {view['receipt']}")
    out.print(f"  is entry {view['entry']} of {head.size} in the log of {view['peer']},")
    out.print(f"  by {_many(len(view['path']), 'hash', 'hashes')} to the signed root", end=" ")
    out.print(head.root.hex(), highlight=False)
    out.print(f"  {payer} owes {payee} {tab.amount:,} ncr")
    blocks = f"{tab.terms.layer_lo}:{tab.terms.layer_hi}"
    out.print(f"  for blocks {blocks} of model {tab.terms.manifest.hex()[:16]}…", highlight=False)


def _amount(ncr: int) -> str:
    return f"{ncr:,}"


def _short(peer: str) -> str:
    return f"…{peer[-10:]}"


def _many(n: int, one: str, several: str) -> str:
    return f"{n:,} {one if n == 1 else several}"
