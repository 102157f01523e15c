"""What a witness answers over HTTP: C2SP tlog-witness, as plain values.

In: a request's method, path and body. Out: status, type and body of the answer. Bytes on a socket
are left to others.
"""

from dataclasses import dataclass

from ledger.errors import WitnessRefused
from ledger.witness import AddCheckpoint, WitnessBook

ADD_CHECKPOINT = "/add-checkpoint"
PLAIN, TREE_SIZE = "text/plain; charset=utf-8", "text/x.tlog.size"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: str
    body: bytes


def answer(
    book: WitnessBook, method: str, path: str, body: bytes, now_s: int, asker: str = ""
) -> Answer:
    """To one request, of a peer whose name is proven, or of anybody.

    Refusals are answers; only what ails this machine is raised.
    """
    if path != ADD_CHECKPOINT:
        return Answer(404, PLAIN, b"a witness answers at /add-checkpoint\n")
    if method != "POST":
        return Answer(405, PLAIN, b"a checkpoint is sent with POST\n")
    try:
        line = book.add_checkpoint(AddCheckpoint.parse(body), now_s, asker)
    except WitnessRefused as refused:
        if refused.status == 409 and refused.size is not None:
            return Answer(409, TREE_SIZE, b"%d\n" % refused.size)
        return Answer(refused.status, PLAIN, f"{refused}\n".encode())
    return Answer(200, PLAIN, line.line().encode())
