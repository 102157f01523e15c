"""How a request finds a chain of peers, and its answer.

The window: a `Client` of a swarm, what it is asked, and what it tells. No torch is ever needed.
"""

from scheduler.client import Client, Generation
from scheduler.directory import Directory
from scheduler.hidden_session import HiddenRequest, HiddenSession
from scheduler.placement import choose_span
from scheduler.request import (
    Event,
    Finished,
    GenerationRequest,
    GenerationResult,
    PromptRead,
    Routed,
    RouteStep,
    Token,
    Waiting,
)

__all__ = [
    "Client",
    "Directory",
    "Event",
    "Finished",
    "Generation",
    "GenerationRequest",
    "GenerationResult",
    "HiddenRequest",
    "HiddenSession",
    "PromptRead",
    "RouteStep",
    "Routed",
    "Token",
    "Waiting",
    "choose_span",
]
