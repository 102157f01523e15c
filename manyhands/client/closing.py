"""How clients that wait are closed: by hand, when they are forgotten, and when the program ends.

In: a client, its loop and its asynchronous half. A forgotten one is collected on any thread, maybe
on its own loop's, so nobody waits there. When the program ends, Python calls us before it waits for
threads and pools; so we wait for those that ask, and close what is open when they are through.
"""

import concurrent.futures.thread  # its own end is registered first; the last registered runs first
import sys
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from manyhands.client.asynchronous import AsyncClient
from manyhands.portal import Portal
from protocol.errors import ManyhandsError, UsageError

if TYPE_CHECKING:
    from manyhands.client.blocking import Client

LOOK_S = 0.02
FIRST_S = 5.0  # in which a thread that has asked nothing yet may begin; it may wait for us to end
_OPEN: dict[Portal, AsyncClient] = {}


def remember(client: "Client", portal: Portal, inner: AsyncClient) -> None:
    """Close it when it is forgotten, and before the program ends."""
    _OPEN[portal] = inner
    weakref.finalize(client, _forgotten, portal, inner).atexit = False  # too late: see below


def close(portal: Portal, inner: AsyncClient) -> None:
    """Wait until it is. May be called again, also where it was interrupted."""
    try:
        if not portal.is_closed:
            portal.call(inner.aclose())
            portal.close()
    except UsageError:
        if not portal.is_closed:  # else another thread closed it meanwhile
            raise
    _OPEN.pop(portal, None)


def _forgotten(portal: Portal, inner: AsyncClient) -> None:
    if not portal.is_closed:
        portal.end_later(lambda: _ended(portal, inner))


async def _ended(portal: Portal, inner: AsyncClient) -> None:
    try:
        await inner.aclose()
    finally:
        _OPEN.pop(portal, None)


def _end_all() -> None:
    if not _OPEN:
        return
    began_s = time.monotonic()
    try:
        while _asking(may_begin=time.monotonic() - began_s < FIRST_S):
            time.sleep(LOOK_S)
    finally:  # Ctrl-C ends the waiting, not the settling
        for portal, inner in tuple(_OPEN.items()):
            with suppress(ManyhandsError):
                close(portal, inner)


def _asking(*, may_begin: bool) -> bool:
    """Whether a thread that the program ends with is still at work."""
    ours = {threading.main_thread(), threading.current_thread()}
    return any(
        (may_begin or any(thread in portal.callers for portal in _OPEN)) and not _is_idle(thread)
        for thread in threading.enumerate()
        if not thread.daemon and thread not in ours
    )


def _is_idle(thread: threading.Thread) -> bool:
    """Whether Python ends it, without waiting for what it does: a pool's thread that has no work,
    and whoever serves a pool of processes."""
    if "concurrent.futures.process" in sys.modules:
        from concurrent.futures.process import _threads_wakeups

        if thread in _threads_wakeups:
            return True
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code is concurrent.futures.thread._worker.__code__


# At `atexit` thread pools take no work any more, and a ledger is written by one.
threading._register_atexit(_end_all)  # type: ignore[attr-defined]
