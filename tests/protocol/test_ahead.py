"""Works done ahead hold their owner's lock and nothing else, whatever becomes of them."""

import gc
import threading
import weakref

from protocol.ahead import Ahead


class Owner:
    def __init__(self) -> None:
        self.turn, self.done = threading.Lock(), threading.Event()

    def work(self) -> None:
        assert self.turn.locked()
        self.done.set()

    def fail(self) -> None:
        raise KeyboardInterrupt


def test_a_work_is_done_on_another_thread_while_its_owner_may_not_go_on():
    ahead, owners = Ahead(2, "test"), [Owner() for _ in range(8)]

    for owner in owners:
        ahead.begin(owner.work, owner.turn)

    for owner in owners:
        with owner.turn:
            assert owner.done.is_set()


def test_a_work_that_fails_gives_the_turn_back_and_the_next_one_is_done():
    ahead, owner, next_one = Ahead(1, "test"), Owner(), Owner()

    ahead.begin(owner.fail, owner.turn)
    ahead.begin(next_one.work, next_one.turn)

    assert owner.turn.acquire(timeout=60)
    assert next_one.done.wait(60)


def test_idle_threads_keep_nobody_alive_and_end_with_what_began_them():
    ahead, owner = Ahead(1, "ending"), Owner()
    ahead.begin(owner.work, owner.turn)
    owner.done.wait(60)
    [thread] = [each for each in threading.enumerate() if each.name.startswith("ending")]
    seen = weakref.ref(owner)

    with owner.turn:
        pass
    del ahead, owner
    gc.collect()
    thread.join(60)

    assert not thread.is_alive()
    assert seen() is None
