"""Which nodes run on this machine, and where each one's own page is, for a gateway's page."""

from typing import Any

from manyhands.home import Home
from manyhands.local import LocalSwarm
from manyhands.running import addresses_of, found_running


def nodes_of(swarm: LocalSwarm) -> list[dict[str, Any]]:
    """Those of a local swarm."""
    return [
        _view(f"node {node.index + 1}", node.address.peer_id, node.page, is_up=node.is_up)
        for node in swarm.nodes
    ]


def nodes_on(home: Home) -> list[dict[str, Any]]:
    """Those that serve on this home, and have a page."""
    found = [record for record in found_running(home) if record.page]
    return [
        _view(f"node of {record.model}", addresses_of(record)[0].peer_id, record.page, is_up=True)
        for record in found
        if addresses_of(record)
    ]


def _view(name: str, peer: str, page: str, *, is_up: bool) -> dict[str, Any]:
    return {"name": name, "peer": peer, "page": page, "is_up": is_up}
