"""The event loop a command runs in: uvloop where there is one, asyncio's own elsewhere."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)

HUNG_UP = "the handler is closed"  # uvloop, of a connection that the other side has ended


def new_runner() -> asyncio.Runner:
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()

    def new_loop() -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        loop.set_exception_handler(_hear)
        return loop

    return asyncio.Runner(loop_factory=new_loop)


def run(work: Coroutine[Any, Any, T]) -> T:
    with new_runner() as runner:
        return runner.run(work)


def _hear(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """As any loop does, but for peers that end a connection right after its TLS handshake, in which
    they saw no certificate of ours: asyncio is silent about them, uvloop tells a traceback."""
    error = context.get("exception")
    if isinstance(error, RuntimeError) and HUNG_UP in str(error):
        log.debug("a connection was ended by the other side", extra={"why": str(error)})
    else:
        loop.default_exception_handler(context)
