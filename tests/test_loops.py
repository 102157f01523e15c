"""What the loop that commands run in tells of, and what not."""

import asyncio
import logging

import pytest

from manyhands.loops import run

pytest.importorskip("uvloop")


def test_a_peer_that_hangs_up_in_its_handshake_is_no_traceback_and_a_mistake_is_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The words of uvloop 0.23 for the first."""
    gone = RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed")

    async def tell() -> None:
        for error in (gone, RuntimeError("a mistake of ours")):
            told = {"message": "Fatal error on SSL protocol", "exception": error}
            asyncio.get_running_loop().call_exception_handler(told)

    run(tell())

    errors = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert [str(each.exc_info[1]) for each in errors if each.exc_info] == ["a mistake of ours"]
