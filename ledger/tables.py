"""Tables of amounts, in which every digit is seen however narrow the terminal is.

Columns that may be folded give way first, from the left. Where that is not enough, lines are longer
than the terminal is wide, and it folds them: rich by itself would shorten amounts.
"""

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

SHORTEST = 7  # characters of a folded line, at the least
UNBOUNDED = 10_000


def new_table(title: str, *headings: str, is_wide: bool = False) -> Table:
    """headings: of columns that may be folded. is_wide: without lines between columns, so that
    rows fit 80 characters."""
    table = Table(title=title, title_justify="left")
    if is_wide:
        table.box, table.padding = box.SIMPLE_HEAD, (0, 1, 0, 0)
        table.show_edge = table.pad_edge = False
    for heading in headings:
        table.add_column(heading, overflow="fold", min_width=SHORTEST)
    return table


def add_numbers(table: Table, *headings: str) -> None:
    """Columns that stay whole: part of an amount is another amount."""
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)


def print_table(out: Console, table: Table) -> None:
    """Of one line per cell; one that is neither whole nor folded is wrapped between its words."""
    in_full = out.measure(table, options=out.options.update_width(UNBOUNDED)).maximum
    excess = max(0, in_full - out.width)
    for column in table.columns:
        texts = [str(text) for text in (column.header, *column.cells)]
        words = texts if column.no_wrap else " ".join(texts).split()
        width, longest = max(map(cell_len, texts)), max(map(cell_len, words))
        column.width = max(min(column.min_width or longest, width), width - excess)
        excess -= width - column.width
    out.width += excess
    out.print(table)
