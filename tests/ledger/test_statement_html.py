"""A statement as a page: whole in itself, and nothing that a peer wrote is markup in it."""

from decimal import Decimal
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from ledger.statement_html import statement_html
from ledger.worth import Worth

TAB = {
    "direction": "spent",
    "peer": "<b>peer</b>",
    "closed_ms": 0,
    "manifest": "ab" * 32,
    "span": [0, 4],
    "meter": {"prefill_tl": 8, "decode_tl": 12, "cached_tl": 0},
    "amount_ncr": 30,
    "receipt": "cd" * 32,
}
VIEW = {
    "role": "client",
    "peer": "12D3KooWme",
    "period": {"from": None, "to": None, "peer": None, "model": None},
    "opening_ncr": 5,
    "earned_ncr": 0,
    "spent_ncr": 30,
    "closing_ncr": -25,
    "net_ncr": -30,
    "open_tabs": 2,
    "head": {"origin": "o", "size": 7, "root": "ef" * 32},
    "tabs": [TAB],
}


class Reader(HTMLParser):
    """The elements and the text of a page; complains of a tag that is not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(*views, worth: Worth | None = None) -> Reader:
    reader = Reader()
    reader.feed("".join(statement_html(views, worth or Worth(), "made now")))
    assert reader.open == []
    return reader


def test_a_statement_says_what_it_counts_and_how_to_check_it():
    page = read(VIEW, worth=Worth("USD", Decimal("2.50")))

    for words in (
        "1,500,000",
        "-30",
        "-0.000000075",
        "7 entries",
        "ef" * 32,
        "0–3",
        "2 more are open",
    ):
        assert words in page.text
    assert "ledger verify ledger.zip" in page.text
    assert page.tags.isdisjoint({"b", "script", "link", "img"})


def test_what_became_of_each_tab_stands_beside_it_where_allotments_pay():
    page = read(VIEW | {"tabs": [TAB | {"state": "unfunded"}, TAB | {"state": "settled"}]})

    assert "StateReceipt" in page.text
    assert "unfunded" in page.text
    assert "settled" in page.text
    assert "State" not in read(VIEW).text


@given(peer=st.text(max_size=40), by=st.text(max_size=20))
def test_what_peers_wrote_is_text(peer, by):
    groups = {
        "groups": [
            {
                "peer": by,
                "n_tabs": 1,
                "token_layers": 1,
                "earned_ncr": 0,
                "spent_ncr": 1,
                "net_ncr": -1,
            }
        ]
    }
    page = read(VIEW | {"tabs": [TAB | {"peer": peer}]}, VIEW | groups | {"peer": peer})

    assert page.tags <= {
        *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "code"),
        *("dl", "div", "dt", "dd", "table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td"),
        "span",
    }
