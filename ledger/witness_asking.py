"""Asking one witness to cosign a log's latest checkpoint: what to send next, and what came of it.

In: our log, the witness's answers. Out: requests, a signature, or why there is none. A witness
tells the size it signed last when that is not what we thought. If it signed more than we have, or
something else, our log is a copy that was put back: whatever it signed next would be a fork.
"""

from ledger.errors import WitnessRefused
from ledger.notes import NoteSignature, parse_lines
from ledger.spend_log import SpendLog
from ledger.witness_http import TREE_SIZE, Answer
from protocol.errors import IntegrityError

MAX_ASKED = 4  # others of this home may write to the log meanwhile


class Asking:
    """One witness, one log. Waits for the disk: call it on a thread."""

    def __init__(self, log: SpendLog, signed: int = 0) -> None:
        """signed: the size that it signed last, as far as we know."""
        self._log, self.signed, self._n_asked = log, signed, 0

    def request(self) -> bytes:
        """
        Raises:
            DamagedLedger: it signed more than our log has.
            WitnessRefused: it goes on telling another size.
        """
        if self._n_asked == MAX_ASKED:
            raise WitnessRefused(409, "it goes on telling other sizes", self.signed)
        self._n_asked += 1
        return self._log.request(self.signed).encode()

    def greeting(self) -> bytes:
        """A request that it signs if it knows what we know, and else says what it knows."""
        return self._log.greeting().encode()

    def greeted(self, answer: Answer) -> None:
        """
        Raises:
            DamagedLedger: it knows more of our log than we do, or something else.
            WitnessRefused: it says nothing of the kind.
        """
        if (size := _told_size(answer)) is not None:
            self._log.check_size(size, is_other=size == len(self._log))
            self.signed = size
        elif answer.status != 200:
            raise _refused(answer)

    def answered(self, answer: Answer) -> tuple[NoteSignature, ...] | None:
        """Its lines; None: ask again.

        Raises:
            DamagedLedger: it signed another tree of that size.
            WitnessRefused: it will not.
        """
        if (size := _told_size(answer)) is not None:
            self._log.check_size(size, is_other=size == self.signed)
            self.signed = size
            return None
        if answer.status == 422:  # what it signed is no beginning of ours
            self._log.check_size(self.signed, is_other=True)
        if answer.status != 200:
            raise _refused(answer)
        try:
            return parse_lines(answer.body.decode())
        except (IntegrityError, UnicodeDecodeError) as error:
            raise WitnessRefused(502, f"it answers with no signature: {error}") from error


def _told_size(answer: Answer) -> int | None:
    if answer.status != 409 or not answer.content_type.startswith(TREE_SIZE):
        return None
    text = answer.body.strip()
    if not text.isdigit() or len(text) > 19:
        raise WitnessRefused(502, "it tells no size")
    return int(text)


def _refused(answer: Answer) -> WitnessRefused:
    reason = answer.body[:200].decode(errors="replace").strip()
    return WitnessRefused(answer.status, reason or f"it answers {answer.status}")
