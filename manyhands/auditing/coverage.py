"""What a hop's fingerprints have to be about, and what it is known to have worked on.

In: a session, what a hop stated of it and opened. Out: what it left out, and whether its input is
proven: only then are wrong outputs its own.
"""

import hmac
from typing import Literal

from ledger.roots import RowRoot
from manyhands.auditing.telling import Session
from protocol.codec import ids_to_bytes
from protocol.messages import TOKEN_BYTES
from scheduler.commitments import Commitment, Opened


def rows_told(hop: Commitment) -> tuple[int, int]:
    """The first position that a hop ran by its own bill, and how many it ran."""
    ran, n_blocks = hop.statement.meter, hop.terms.layer_hi - hop.terms.layer_lo
    return ran.cached_tl // n_blocks, (ran.prefill_tl + ran.decode_tl) // n_blocks


def gap(session: Session, hop: Commitment, opened: Opened) -> str:
    """What it billed and committed to nothing of; empty: nothing.

    Rows that are run again are billed each time and stand once. After a loss nothing is said then;
    where drafts were refused all rows of the answer have to stand.
    """
    start, n_rows = rows_told(hop)
    stop = start + n_rows
    if session.was_drafted:
        stop = min(stop, session.n_rows)
    if session.was_mended or (opened.start <= start and opened.stop >= stop):
        return ""
    return f"it ran {start}:{stop} and shows {opened.start}:{opened.stop}"


def has_proven_input(session: Session, hop: Commitment, until: int, n_blocks: int) -> bool:
    """Whether all rows below `until` came from the ids that the caller knows, and nothing else.

    So it is with a first hop that signed for these very ids, from the first one on. A hop that is
    the whole chain got its ids from the caller and itself. What later hops were sent is
    `inputs.py`'s to prove: neighbours' fingerprints are of what they computed, not of what they
    sent.
    """
    if hop.terms.layer_lo:
        return False
    if hop.terms.layer_hi == n_blocks:
        return True
    if hop.statement.last_step < until:
        return False
    return has_signed(hop, "in", ids_to_bytes(session.ids), TOKEN_BYTES)


def has_signed(hop: Commitment, way: Literal["in", "out"], rows: bytes, width: int) -> bool:
    """Whether the hop's last statement is of just these rows, from position 0 on.

    way: that it took them in, or that it sent them. rows: at least as many as it speaks of.
    """
    told, root = hop.statement, RowRoot(hop.salt)
    signed = told.in_root if way == "in" else told.out_root
    root.add(0, rows[: told.last_step * width], width)
    return root.stop == told.last_step and hmac.compare_digest(root.at(root.stop), signed)
