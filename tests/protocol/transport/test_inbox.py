"""What a taker of messages does is its own affair: whoever brings them goes on."""

import asyncio

import pytest

from protocol.errors import PeerRefused, PeerUnreachable
from protocol.transport.inbox import Inbox

ENDED = PeerUnreachable("", "it closed the stream")


async def taking(inbox, take):
    """A task that waits for messages by now."""
    task = asyncio.create_task(inbox.each(take))
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("raised", [PeerRefused("", "not that"), StopIteration(), ValueError()])
async def test_whatever_a_taker_raises_ends_its_task_and_not_that_of_who_brings(raised):
    inbox, taken = Inbox(), []

    def take(message):
        taken.append(message)
        if message == b"bad":
            raise raised

    task = await taking(inbox, take)
    for message in (b"good", b"bad", b"later"):
        inbox.put(message)
    (outcome,) = await asyncio.gather(task, return_exceptions=True)

    # A coroutine cannot raise StopIteration: Python makes it a RuntimeError (PEP 479).
    assert outcome is raised or isinstance(outcome.__cause__, StopIteration)
    assert taken == [b"good", b"bad"]
    assert await inbox.get() == b"later"


async def test_a_taker_that_was_cancelled_is_handed_nothing_more():
    inbox, taken = Inbox(), []
    task = await taking(inbox, taken.append)

    task.cancel()
    inbox.put(b"late")
    await asyncio.gather(task, return_exceptions=True)

    assert taken == []
    assert await inbox.get() == b"late"


async def test_an_error_of_the_taker_stands_before_an_end_that_it_caused():
    inbox = Inbox()

    def take(message):
        inbox.end(ENDED)
        raise ValueError("a mistake")

    task = await taking(inbox, take)
    inbox.put(b"bad")

    with pytest.raises(ValueError, match="a mistake"):
        await task


async def test_what_comes_between_the_end_and_its_hearing_is_taken_in_order():
    inbox, taken = Inbox(), []
    task = await taking(inbox, taken.append)

    inbox.put(b"1")
    inbox.end(ENDED)
    inbox.put(b"2")

    with pytest.raises(PeerUnreachable, match="closed the stream"):
        await task
    assert taken == [b"1", b"2"]
