"""What a last hop reads off a prompt's rows besides the token it draws: how likely the prompt's own
ids were, or one vector of all its rows.

In: what a step gave for some rows of one session, on the batcher's thread. Out: messages for the
client, and a vector for the event that ends the answer. All rows are run here for that, so such a
session takes over none.
"""

from enum import Enum
from typing import TYPE_CHECKING

from node.engine import ShardEngine, StepResult
from protocol.errors import UsageError
from protocol.hop_session import HopSession
from protocol.likelihoods import logprobs_of
from protocol.logprobs import PromptLogprobs
from protocol.messages import Reserve
from protocol.pooling import Pool

if TYPE_CHECKING:
    from protocol.sampling import Floats


class Reads(Enum):
    """What of each row."""

    LOGITS = "logits"
    ROWS = "rows"


class Readout:
    """Of one session, which is set before anything is read.

    Raises:
        UsageError: what is asked for cannot be had together.
    """

    def __init__(self, reserve: Reserve) -> None:
        asked = reserve.extensions
        self._n_top, self._pooling = asked.prompt_logprobs - 1, asked.pooling
        if self._pooling and asked.prompt_logprobs:
            raise UsageError("a prompt is read for its odds or for its vector, not for both")
        if self._pooling and reserve.max_tokens != 1:
            raise UsageError("an answer that is a vector has one token")
        if reserve.prefixes.positions or reserve.handover.peer:
            raise UsageError("a prompt that is read is run whole, nothing of it is taken over")
        self.reads = Reads.ROWS if self._pooling else Reads.LOGITS
        self.session: HopSession
        self._pool: Pool | None = None
        self._told: list[PromptLogprobs] = []

    def read(self, engine: ShardEngine, start: int, result: StepResult) -> PromptLogprobs | None:
        """Rows from position `start` on were run, with logits where it reads these."""
        session = self.session
        agreed = session.commitment
        assert agreed is not None
        if self.reads is Reads.ROWS:
            if self._pool is None:
                self._pool = Pool(self._pooling, agreed.n_prompt)
            rows = engine.normed(result.hidden).float().cpu().numpy()
            self._pool.add(start, rows, session.length)
            return None
        ids = session.draws.ids[start + 1 : min(start + len(result.hidden) + 1, agreed.n_prompt)]
        if not ids or agreed.n > agreed.n_prompt:  # who holds a token was told all before it
            return None
        assert result.logits is not None
        logits: Floats = result.logits[: len(ids)].cpu().numpy()
        told = [logprobs_of(row, id, self._n_top) for row, id in zip(logits, ids, strict=True)]
        self._told.append(PromptLogprobs.of(session.epoch, start + 1, told))
        return self._told[-1]

    def vector(self) -> bytes:
        """The answer, where it is one."""
        return self._pool.vector() if self._pool is not None else b""

    def again(self, have: int) -> list[PromptLogprobs]:
        """What a client may lack that lost its stream, and came back holding `have` ids."""
        agreed = self.session.commitment
        return list(self._told) if agreed is not None and have <= agreed.n_prompt else []


def readout_of(reserve: Reserve) -> Readout | None:
    """None: it reads nothing but what it draws from."""
    asks = reserve.is_last and reserve.extensions.reads_prompt
    return Readout(reserve) if asks else None
