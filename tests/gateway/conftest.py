"""One gateway for all tests of a worker: loading and proving the nodes' blocks takes seconds."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.gateway.live import Live


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Live]":
    from tests.gateway.live import live  # torch is for those who ask for it

    with live(tmp_path_factory.mktemp("gateway")) as running:
        yield running
