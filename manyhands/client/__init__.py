"""Ask a swarm, or a gateway in front of one, from Python.

The window: `Client` for code that waits, `AsyncClient` for code that awaits, and what they give.
Importing it loads no transport and no model.
"""

from manyhands.client.asynchronous import AsyncClient
from manyhands.client.blocking import Client
from manyhands.client.chat_values import ChatCompletion, ChatCompletionChunk
from manyhands.client.values import Answer, Coverage, Embeddings, Hop, Model, Timings, Token, Usage

__all__ = [
    "Answer",
    "AsyncClient",
    "ChatCompletion",
    "ChatCompletionChunk",
    "Client",
    "Coverage",
    "Embeddings",
    "Hop",
    "Model",
    "Timings",
    "Token",
    "Usage",
]
