"""Whose doing it is that a hop deviates from what the ids give: its own, or that of one before it.

In: a window that deviates, and what each hop is proven to have worked on. Out: the hop that did
other than its own input gives, with the opinions that say so.

From the hop that deviates back: its blocks are run again on the very rows it signed for. Where
these rows are themselves what the ids give, what it made of them is its own doing. Where they are
not, the hop that signed for sending them is looked at next, by the rows themselves, in which
nothing hides. Rows have to be near the right ones before anybody is accused of what became of them:
a sender could make up some on which honest processors differ.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from manyhands.auditing.inputs import Inputs
from manyhands.auditing.opinions import Heard, Opinions, Sent, agreed
from protocol.fp_profile import LEAST_ROWS
from protocol.windows import WINDOW, Window, windows_of

if TYPE_CHECKING:
    from protocol.wire import Rows
    from scheduler.commitments import Commitment


@dataclass(frozen=True, slots=True)
class Doing:
    """What a hop made of its proven input in one window, in others' opinion.

    is_sent: it is about what it sent; its fingerprints may say otherwise.
    """

    hop: "Commitment"
    index: int
    heard: tuple[Heard, ...]
    is_sent: bool = False

    @property
    def wrong(self) -> list[Heard]:
        return [each for each in self.heard if not each.is_honest]

    @property
    def is_honest(self) -> bool | None:
        return agreed(self.heard)


async def trace(
    hop: "Commitment", window: Window, n_rows: int, inputs: Inputs, opinions: Opinions
) -> Doing | None:
    """None: what it worked on is not proven, or what to think of that.

    n_rows: of the answer; what was run behind them nobody knows.
    """
    shown: Window | Sent = window
    while (given := await inputs.of(hop, stop := min(shown.stop, n_rows))) is not None:
        far = None
        if given.rows is not None and given.sender is not None:
            far, is_sure = await _first_wrong(given.sender, given.rows[:stop], opinions)
            if not is_sure:
                return None
        if far is None:
            heard = await opinions.of(hop, shown, given.rows)
            return Doing(hop, shown.start // WINDOW, tuple(heard), isinstance(shown, Sent))
        if given.sender is None or not given.is_signed:
            return None
        hop, shown = given.sender, far
    return None


async def _first_wrong(
    sender: "Commitment", rows: "Rows", opinions: Opinions
) -> tuple[Sent | None, bool]:
    """The first window of what was sent that is not what the ids give; whether one can say."""
    for start, stop in windows_of(0, len(rows)):
        if stop - start < LEAST_ROWS:
            continue
        sent = Sent(start, rows[start:stop])
        heard = await opinions.of(sender, sent)
        is_honest = agreed(heard)
        if is_honest is None:
            return None, False
        if not is_honest:
            return sent, len(heard) > 1
    return None, True
