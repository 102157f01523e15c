"""Places that callers take in turns, and limits that do not count what one waits for others."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.gateway.places import Places
from manyhands.gateway.work_limit import WorkLimit

N_TURNS = 20  # of the event loop, within which all that can go on has gone on


async def settled() -> None:
    for _ in range(N_TURNS):
        await asyncio.sleep(0)


class Room:
    """Work that ends when it is told to."""

    def __init__(self, n: int) -> None:
        self.places = Places(n)
        self.inside: dict[asyncio.Task[None], tuple[str, asyncio.Event]] = {}
        self.entered: list[str] = []

    def come(self, caller: str) -> asyncio.Task[None]:
        async def work() -> None:
            async with self.places.place(caller):
                end, task = asyncio.Event(), asyncio.current_task()
                assert task is not None
                self.inside[task] = caller, end
                self.entered.append(caller)
                try:
                    await end.wait()
                finally:
                    del self.inside[task]

        return asyncio.create_task(work())

    def leave(self, index: int) -> None:
        """One of those inside is done."""
        [*inside] = self.inside.values()
        inside[index % len(inside)][1].set()


async def test_who_asks_for_much_leaves_a_place_free_and_takes_turns_with_the_others() -> None:
    room = Room(3)
    tasks = [room.come("much") for _ in range(5)]
    await settled()
    assert room.entered == ["much"] * 2

    tasks += [room.come("little") for _ in range(3)]
    await settled()
    assert room.entered == ["much", "much", "little"]

    for _ in tasks:
        room.leave(0)
        await settled()
    assert room.entered[3:6] in (["much", "little", "much"], ["little", "much", "little"])
    assert all(task.done() for task in tasks)


async def test_a_single_place_is_everybodys() -> None:
    room = Room(1)
    task = room.come("")
    await settled()

    room.leave(0)
    await task

    assert room.entered == [""]


CAME = st.tuples(st.just("come"), st.sampled_from("abc"))
DONE = st.tuples(st.sampled_from(["leave", "cancel"]), st.integers(0, 20))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.lists(CAME | DONE, max_size=25))
def test_no_place_is_lost_or_given_twice_whoever_comes_leaves_or_is_cut_off(n, steps) -> None:
    async def run() -> None:
        room, tasks = Room(n), []
        for what, which in steps:
            if what == "come":
                tasks.append(room.come(which))
            elif what == "cancel" and tasks:
                tasks[which % len(tasks)].cancel()  # it waits, is inside, or is over
            elif what == "leave" and room.inside:
                room.leave(which)
            if what != "cancel":  # which may also come while a place is being given
                await settled()
                assert len(room.inside) <= n
        while room.inside:
            room.leave(0)
            await settled()
        await asyncio.gather(*tasks, return_exceptions=True)
        await together(room)

    async def together(room: Room) -> None:
        """All places are there again."""
        async with AsyncExitStack() as all_of_them:
            for caller in map(str, range(n)):
                await all_of_them.enter_async_context(room.places.place(caller))

    asyncio.run(run())


async def test_time_stands_still_while_one_waits_for_others_and_goes_on_afterwards() -> None:
    was_there = asyncio.Event()

    async def work() -> None:
        async with WorkLimit(0.05) as limit:
            with limit.waiting():
                await asyncio.sleep(0.1)  # twice what it may take
            was_there.set()
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await work()

    assert was_there.is_set()


async def test_who_is_cut_off_while_it_waits_is_cut_off() -> None:
    async def work() -> None:
        async with WorkLimit(600) as limit:
            with limit.waiting():
                await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await settled()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
