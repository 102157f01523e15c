"""Which windows of work are looked at again, and how often.

In: a secret nonce, a signed statement's id, a rate. Out: whether this window is looked at. The
statement is signed before the choice can be known, and the choice is a function of it: a provider
cannot foresee it, and an auditor that shows its nonce afterwards can be seen not to have picked.
Rates are parts of a million.
"""

import hmac
import math
from hashlib import sha256

from ledger.reputation import Standing

FLOOR_PPM = 5_000  # 0.5 %: with a franchise of some hundred windows at stake, cheating does not pay
NEW_PPM = 200_000  # who has little to lose yet
SUSPECT_TIMES = 10
SETTLED_LOOKS = 100.0  # so many good ones, and the floor is reached
ALL_PPM = 1_000_000


def sample_commit(nonce: bytes) -> bytes:
    """What is shown of a nonce before the work is done."""
    return sha256(b"manyhands-sample" + nonce).digest()


def is_sampled(nonce: bytes, statement_oid: bytes, window_no: int, rate_ppm: int) -> bool:
    """Whether window `window_no` under this statement is looked at."""
    if rate_ppm >= ALL_PPM:
        return True
    about = statement_oid + window_no.to_bytes(8, "big")
    drawn = int.from_bytes(hmac.digest(nonce, about, "sha256"), "big")
    return drawn * ALL_PPM < rate_ppm << 256


def rate_ppm(standing: Standing, policy_ppm: int, *, is_suspect: bool = False) -> int:
    """How often an account's windows are looked at, by what is known of it.

    policy_ppm: the swarm's `audit_ppm`, the least that it wants; 0: this swarm audits nothing.
    """
    if policy_ppm == 0:
        return 0
    settled = min(1.0, standing.passed / SETTLED_LOOKS)
    floor = max(FLOOR_PPM, policy_ppm)
    # From new to settled in equal ratios: half of the way is a tenth of the rate, not half of it.
    rate = round(NEW_PPM * (floor / NEW_PPM) ** settled) if floor < NEW_PPM else floor
    return min(ALL_PPM, rate * (SUSPECT_TIMES if is_suspect else 1))


def windows_needed(rate: float, cheated: float, sensitivity: float, certainty: float) -> int:
    """After how many windows a cheat is caught with this certainty: 1 - (1 - pfd)^N."""
    return math.ceil(math.log(1 - certainty) / math.log1p(-rate * cheated * sensitivity))


def deters(rate: float, sensitivity: float, at_stake: float, saving: float) -> bool:
    """Whether cheating does not pay: what is lost when caught outweighs what a window saves.

    at_stake: what a caught cheat loses (unsettled credit, and the business to come), in windows.
    saving: of one cheated window, as part of its price.
    """
    return rate * sensitivity * at_stake >= saving
