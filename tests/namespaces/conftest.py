"""The namespace suite: all of it needs root, `ip` and `iptables`, and says so where they are not.

One command runs it: `python -m pytest tests/namespaces`. What is not marked slow is part of the
ordinary suite too.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.namespaces.lab import Lab, why_not

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    missing = why_not() if ours else ""
    for item in ours:
        item.add_marker(pytest.mark.namespaces)
        if missing:
            item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab of one test; what its processes said is shown if the test fails."""
    with Lab() as made:
        yield made
        print(made.errors())


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    """A lab that the tests of a file use in their order."""
    with Lab() as made:
        yield made
        print(made.errors())
