"""The states of a session at one hop, and what each event does in each of them.

    state     means
    RESERVED  room is kept, nothing agreed; expires after RESERVE_S
    RUNNING   committed to an epoch: rows come in, are run, journaled and pushed
    RAISED    the client raised the epoch: nothing runs until it commits one
    CLOSING   settling: the final statement is out, the final voucher awaited
    OVER      freed; the shell keeps a tombstone and answers frames with `Gone`

    event \\ state   RESERVED        RUNNING              RAISED          CLOSING     OVER
    commit          → RUNNING       ignored (repeat)     → RUNNING       ignored     ignored
    raise           ignored         → RAISED             higher: again   ignored     ignored
    frame           held, if of     run; drop if old,    held, if of     gone        gone
                    this epoch      repeat, foreign      this epoch
    ran             -               journal, push, tell  dropped         dropped     dropped
    ack             -               credit, or rewind    dropped         dropped     dropped
    ask             -               answered             answered after  gone        gone
                                                         the commit
    gone            -               tell LinkDown        dropped         dropped     dropped
    link lost       -               pause that link      dropped         dropped     dropped
    link back       -               ask the successor    dropped         dropped     dropped
    paid            -               run what waited      dropped         dropped     dropped
    close           → OVER          → CLOSING            → CLOSING       ignored     ignored
    settled         -               -                    -               → OVER      ignored
    abandon         → OVER          → OVER               → OVER          → OVER      ignored
    control lost    → OVER          → OVER after RESUME_S, unless it comes back      ignored
    control back    -               events again         Raised again    ignored     ignored
    tick            expire          deadline, unpaid, progress           give up     ignored

`hop_session.py` is this table with its details.
"""

import enum


class State(enum.Enum):
    RESERVED = enum.auto()
    RUNNING = enum.auto()
    RAISED = enum.auto()
    CLOSING = enum.auto()
    OVER = enum.auto()
