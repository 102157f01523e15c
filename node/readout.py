"""What a last hop reads off a prompt's rows besides the token it draws: how likely the prompt's own
ids were, or one vector of all its rows.

In: what a step gave for some rows of one session, on the batcher's thread. Out: messages for the
client, and a vector for the event that ends the answer. All rows are run here for that, so such a
session takes over none. Messages are kept as they travel, for a client that loses its stream, until
it holds a token.
"""

from enum import Enum

from node.engine import ShardEngine, StepResult
from node.odds import odds_of
from protocol.codec import to_client_bytes
from protocol.errors import PeerBusy, UsageError
from protocol.hop_session import HopSession
from protocol.logprobs import PromptLogprobs
from protocol.messages import Reserve
from protocol.pooling import Pool

ODDS_BYTES = 8  # kept of a position, of its id and of each likelier one: an id and a float
MOST_AGAIN = 16  # times that all is told again: a question is small, its answer is not


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
        self._told: list[bytes] = []
        self._n_again = 0

    def needs_logits(self, start: int) -> bool:
        """Of every row from position `start` on; who holds a token was told all before it."""
        agreed = self.session.commitment
        if self.reads is Reads.ROWS or agreed is None or agreed.n > agreed.n_prompt:
            return False
        return start < agreed.n_prompt - 1

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
        if not self.needs_logits(start):
            return None
        ids = session.draws.ids[start + 1 : min(start + len(result.hidden) + 1, agreed.n_prompt)]
        assert result.logits is not None
        odds = odds_of(result.logits, ids, self._n_top)
        told = PromptLogprobs.of(session.epoch, start + 1, odds)
        self._told.append(to_client_bytes(told))
        return told

    def vector(self) -> bytes:
        """The answer, where it is one."""
        return self._pool.vector() if self._pool is not None else b""

    def again(self, have: int) -> list[bytes]:
        """What a client may lack that lost its stream, and came back holding `have` ids.

        Raises:
            PeerBusy: it came too often.
        """
        agreed = self.session.commitment
        if agreed is not None and max(have, agreed.n) > agreed.n_prompt:
            self._told.clear()
        if self._told:
            self._n_again += 1
        if self._n_again > MOST_AGAIN:
            raise PeerBusy("", "the odds of this prompt were told too often")
        return list(self._told)


def kept_bytes(reserve: Reserve, positions: int) -> int:
    """What a session keeps of what it read, at most."""
    n_each = reserve.extensions.prompt_logprobs if reserve.is_last else 0  # 1 more than likeliest
    return positions * n_each * ODDS_BYTES


def readout_of(reserve: Reserve) -> Readout | None:
    """None: it reads nothing but what it draws from."""
    asks = reserve.is_last and reserve.extensions.reads_prompt
    return Readout(reserve) if asks else None
