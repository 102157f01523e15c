"""docs/reference.md is what the docstrings say now; `scripts/test` checks it, too."""

from scripts.gen_reference import PAGE, page


def test_the_reference_is_made_from_the_docstrings():
    assert PAGE.read_text() == page()
