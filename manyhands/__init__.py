"""The front door: the command line, the Python API, the local swarm, the built-in model.

`from manyhands import Client` is the Python API; importing this package alone loads nothing else.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scheduler.client import Client

__version__ = "0.1.0"
__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> Any:
    if name != "Client":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scheduler.client import Client

    return Client
