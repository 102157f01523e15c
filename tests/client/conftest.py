"""The gateway of `tests/gateway`, and a client of each kind to the same swarm."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from manyhands import Client
    from tests.gateway.live import Live


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Live]":
    from tests.gateway.live import live  # torch is for those who ask for it

    with live(tmp_path_factory.mktemp("clients")) as running:
        yield running


@pytest.fixture(scope="session")
def clients(
    gateway: "Live", tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[dict[str, Client]]":
    from manyhands import Client

    home, address = tmp_path_factory.mktemp("home"), str(gateway.swarm.nodes[0].address)
    with (
        Client(join=[address], home=home, model="tiny") as of_swarm,
        Client(base_url=gateway.url, max_retries=0) as of_gateway,
    ):
        yield {"swarm": of_swarm, "gateway": of_gateway}


@pytest.fixture(params=["swarm", "gateway"])
def client(request: pytest.FixtureRequest, clients: "dict[str, Client]") -> "Client":
    return clients[request.param]
