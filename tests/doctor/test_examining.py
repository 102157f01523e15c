"""How checks are run: beside each other, each with its deadline, the heavy ones last."""

import asyncio
import gc
import time

from manyhands.doctor.case import Asked, Case
from manyhands.doctor.examining import examine
from manyhands.doctor.finding import Check, Verdict, ok


def case(tmp_path):
    return Case(Asked(home=tmp_path / "home"))


async def test_what_loads_torch_begins_when_the_quick_checks_are_done_and_waits_for_no_other(
    tmp_path,
):
    order: list[str] = []
    is_over = asyncio.Event()

    def check(name, *awaited, deadline_s=10.0, is_heavy=False):
        async def look(case):
            order.append(name)
            for each in awaited:
                await each()
            order.append(f"{name} ended")
            return ok("well")

        return Check(name, "it", look, deadline_s, is_heavy)

    async def heavy_ends(case):
        order.append("heavy")
        is_over.set()
        return ok("well")

    results = await examine(
        (
            Check("heavy", "torch", heavy_ends, 60.0, is_heavy=True),
            check("quick", lambda: asyncio.sleep(0.01)),
            check("network", is_over.wait, deadline_s=40.0),
        ),
        case(tmp_path),
    )

    assert [result.check.id for result in results] == ["heavy", "quick", "network"]
    assert {result.finding.verdict for result in results} == {Verdict.OK}
    assert order.index("heavy") > order.index("quick ended")
    assert order[-1] == "network ended"


async def test_time_in_which_the_whole_process_stood_still_counts_for_no_check(tmp_path):
    def keep_the_interpreter():  # as a library that loads
        time.sleep(0.7)  # on the loop, on purpose: longer than the checks have

    async def hold_all_up(case):
        await asyncio.sleep(0.01)
        keep_the_interpreter()
        return ok("well")

    async def patient(case):
        await asyncio.sleep(0.05)
        await asyncio.sleep(0.05)
        return ok("well")

    results = await examine(
        (Check("loads", "it", hold_all_up), Check("looks", "it", patient, 0.5)), case(tmp_path)
    )

    assert [result.finding.verdict for result in results] == [Verdict.OK, Verdict.OK]


async def test_a_check_that_hangs_is_told_and_stopped_and_hides_no_other(tmp_path):
    stopped = asyncio.Event()

    async def hang(case):
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def look(case):
        return ok("well")

    hung, looked = await examine(
        (Check("hangs", "it", hang, 0.2), Check("looks", "it", look)), case(tmp_path)
    )

    assert (hung.finding.verdict, stopped.is_set()) == (Verdict.WARN, True)
    assert "could not be told within 0.2 s" in hung.finding.reason
    assert looked.finding.verdict is Verdict.OK


async def test_a_check_that_fails_while_it_is_stopped_leaves_no_traceback_behind(tmp_path):
    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: lost.append(context))

    async def hang(case):
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("it did not close")

    (hung,) = await examine((Check("hangs", "it", hang, 0.2),), case(tmp_path))
    gc.collect()

    assert (hung.finding.verdict, lost) == (Verdict.WARN, [])
