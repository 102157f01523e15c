"""docs/reference.md and docs/http.md are what the code says now; `scripts/test` checks it, too."""

import re

import pytest

from manyhands.gateway import http_reference
from scripts.gen_reference import DOCS, HTTP_PAGE, PAGE, page


def test_the_reference_is_made_from_the_docstrings():
    assert PAGE.read_text() == page()


def test_the_http_reference_is_made_from_what_the_gateway_serves():
    assert HTTP_PAGE.read_text() == http_reference.page()


@pytest.mark.parametrize("name", ["gateway", "dashboard", "operate", "privacy", "use"])
def test_paths_that_a_page_names_are_there(name):
    known = {re.sub(r"\{\w+\}", "*", path) for path in http_reference.document()["paths"]}
    text = (DOCS / f"{name}.md").read_text()

    for path in set(re.findall(r"(?:GET|POST) (/[\w/.]+[\w/])", text)):
        plain = re.sub(r"/[A-Z]+$", "/*", path)
        is_of_nodes = path.startswith("/api/v1/node")
        assert is_of_nodes or plain in known | {"/openapi.json"}, f"docs/{name}.md names {path}"
