"""The front door: the command line, the Python API, the local swarm, the built-in model.

`from manyhands import Client, AsyncClient, AutoDistributedModelForCausalLM, Limits, Group` is the
Python API, with `manyhands.errors`; importing this package alone loads nothing else.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manyhands.client import AsyncClient, Client
    from manyhands.distributed import AutoDistributedModelForCausalLM
    from protocol.constraints import Group
    from scheduler.wanted import Limits

__version__ = "0.1.0"
__all__ = [
    "AsyncClient",
    "AutoDistributedModelForCausalLM",
    "Client",
    "Group",
    "Limits",
    "__version__",
]

_HOMES = {
    "AsyncClient": "manyhands.client",
    "AutoDistributedModelForCausalLM": "manyhands.distributed",
    "Client": "manyhands.client",
    "Group": "protocol.constraints",
    "Limits": "scheduler.wanted",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
