"""What is signed, and what proves who somebody is: envelopes, ledgers, certificates, invites.

Most of it comes signed by whoever made it. A stranger signs what it likes, so what is inside an
envelope is changed first and signed then.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ledger import Ledger
from ledger.checkpoint import Checkpoint
from ledger.objects import Offer, Route, Statement, Terms, Voucher
from ledger.receipts import Receipt, open_receipt
from ledger.views import check_proof_view, proof_view
from protocol import canonical
from protocol.announcements import read_announcement, verify_announcement
from protocol.errors import ManyhandsError
from protocol.identity import PeerId, public_key_from_peer_id
from protocol.membership.certificates import Certificate, Ruling, Verdict
from protocol.membership.exchange import answer
from protocol.membership.gate import Membership
from protocol.membership.invites import Grant, Invite
from protocol.membership.joining import accept, redeem
from protocol.membership.policy import open_founding, open_update
from protocol.membership.state import SwarmState
from protocol.signing import OPEN_SWARM_ID, Envelope, signed_bytes
from protocol.tls import issue_client_leaf, issue_server_leaf, verified_peer
from scheduler.prices import read_offer
from tests.announcing import NOW_MS, key_of, peer_of, record
from tests.fuzz.harness import Target
from tests.gossiping import identity_of
from tests.ledger.parties import CLIENT, SWARM, closed_receipt, make_offer
from tests.membership import FOUNDER, WORKS, found, open_to, rule

HOUR_MS = 3_600_000
REGISTRAR, TOKEN = 700, 701


def sealed(
    kind: str, swarm_id: bytes, parse: Callable[[Envelope], object], signer: int = FOUNDER
) -> Callable[[bytes], object]:
    """Parse what somebody with a key of its own made of `data`."""
    key = key_of(signer)

    def parse_sealed(data: bytes) -> object:
        signature = key.sign(signed_bytes(kind, swarm_id, data))
        return parse(Envelope(kind, data, ((key.public_key, signature),)))

    return parse_sealed


def _state() -> SwarmState:
    state = SwarmState(found())
    policy = state.policy.with_admin(key_of(REGISTRAR).public_key)
    state.learn(policy.seal(state.swarm_id, key_of(FOUNDER)))
    return state


_STATE = _state()
_UPDATE = _STATE.policy.seal(_STATE.swarm_id, key_of(FOUNDER))
_SWARM = _STATE.swarm_id
_GRANT = Grant(
    token=key_of(TOKEN).public_key,
    roles=WORKS,
    n_uses=0,
    issued_ms=NOW_MS,
    expires_ms=NOW_MS + HOUR_MS,
    lifetime_ms=HOUR_MS,
    registrar=key_of(REGISTRAR).public_key,
)
_CERTIFICATE = Certificate(
    peer=key_of(1).public_key, roles=WORKS, issued_ms=NOW_MS, expires_ms=NOW_MS + HOUR_MS
)
_RULING = Ruling(peer=key_of(2).public_key, verdict=Verdict.DENIED, stamp_ms=NOW_MS)


class _Nobody:
    """Uses of an invite that nobody counts."""

    def of(self, grant_id: bytes) -> list[frozenset[bytes]]:
        return []

    def add(self, grant_id: bytes, certificates: Sequence[Certificate]) -> None:
        pass


def _invite() -> Invite:
    from protocol.address import Address

    return Invite(
        name="home",
        swarm_id=_SWARM,
        grant=_GRANT.seal(_SWARM, key_of(FOUNDER)),
        secret=key_of(TOKEN).seed,
        addresses=(Address("127.0.0.1", 31400, peer_of(REGISTRAR)),),
    )


def _redemption() -> bytes:
    from protocol.membership.invites import Redemption

    grant = _GRANT.seal(_SWARM, key_of(FOUNDER))
    return Redemption.request(grant, _SWARM, key_of(TOKEN), {key_of(1): WORKS})


def _redeem(data: bytes) -> bytes:
    return redeem(_state_again(), data, key_of(REGISTRAR), _Nobody(), NOW_MS)


def _state_again() -> SwarmState:
    return _STATE


def _accept(data: bytes) -> object:
    return accept(data, _invite_made, [key_of(1).public_key], NOW_MS)


_invite_made = _invite()


class _Member:
    """Whom strangers ask; made anew once one of them has told it something."""

    def __init__(self) -> None:
        self._founding = found()
        self._membership = self._made()

    def _made(self) -> Membership:
        state = SwarmState(self._founding)
        state.learn(_UPDATE)
        return Membership(state)

    def answer(self, data: bytes) -> object:
        before = self._membership.state.digest
        try:
            return answer(self._membership, data, sender="sender")
        finally:
            if self._membership.state.digest != before:
                self._membership = self._made()


def _swarm_questions() -> list[bytes]:
    ruled = _state()
    ruled.learn(rule(ruled, 3, Verdict.DENIED, stamp_ms=NOW_MS))
    return [ruled.digest, ruled.digest + ruled.encode(), _STATE.digest]


def _announced(envelope: Envelope) -> None:
    claimed, read = read_announcement(envelope.encode())
    verify_announcement(claimed, read, OPEN_SWARM_ID)


def _receipts() -> list[bytes]:
    return [closed_receipt().encode()]


def _receipt(data: bytes) -> object:
    return open_receipt(Receipt.decode(data), SWARM)


def _payload(envelope: Envelope) -> bytes:
    return envelope.payload


def _parts() -> dict[str, Envelope]:
    made = closed_receipt()
    assert made.statement is not None
    assert made.voucher is not None
    return {"terms": made.terms, "statement": made.statement, "voucher": made.voucher}


def _objects(data: bytes) -> None:
    """Fields of any of the ledger's objects; one of them may fit."""
    fields = canonical.decode(data)
    for kind in (Offer, Terms, Statement, Voucher, Route):
        try:
            kind.from_fields(fields)
        except ManyhandsError:
            continue


def _checkpoint(data: bytes) -> object:
    return Checkpoint.open(data.decode(errors="surrogateescape"), key_of(1).public_key)


def _proof(data: bytes) -> object:
    try:
        view = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return check_proof_view(view)


def _proofs() -> list[bytes]:
    with tempfile.TemporaryDirectory() as home, Ledger.open(Path(home), CLIENT, SWARM) as ledger:
        entry = ledger.append(closed_receipt())
        proof = ledger.prove(entry.receipt_id)
    return [json.dumps(proof_view(CLIENT.public_key, SWARM, proof)).encode()]


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode(errors="surrogateescape"))


TARGETS = (
    Target(
        name="canonical",
        parse=canonical.decode,
        shape="cbor",
        seeds=lambda: [record(1).data, canonical.encode((1, None, True, "x", (b"y", (2,))))],
    ),
    Target(
        name="envelope",
        parse=Envelope.decode,
        shape="cbor",
        seeds=lambda: [make_offer().encode(), _CERTIFICATE.seal(_SWARM, key_of(3)).encode()],
    ),
    Target(
        name="announcement-signed",
        shape="cbor",
        parse=sealed("mh/announcement/1", OPEN_SWARM_ID, _announced, signer=1),
        seeds=lambda: [Envelope.decode(record(1).data).payload],
    ),
    Target(name="offer", parse=read_offer, seeds=lambda: [make_offer().encode()], shape="cbor"),
    Target(
        name="ledger-objects",
        parse=_objects,
        shape="cbor",
        seeds=lambda: [make_offer().payload, *map(_payload, _parts().values())],
    ),
    Target(name="receipt", parse=_receipt, seeds=_receipts, shape="cbor"),
    Target(
        name="checkpoint",
        parse=_checkpoint,
        seeds=lambda: [Checkpoint("origin", 5, bytes(32)).sign(key_of(1)).encode()],
    ),
    Target(name="proof", parse=_proof, seeds=_proofs, shape="json", errors=(ManyhandsError,)),
    Target(
        name="certificate",
        shape="cbor",
        parse=sealed("mh/member/1", _SWARM, lambda e: Certificate.open(e, _SWARM)),
        seeds=lambda: [_CERTIFICATE.seal(_SWARM, key_of(FOUNDER)).payload],
    ),
    Target(
        name="ruling",
        shape="cbor",
        parse=sealed("mh/ruling/1", _SWARM, lambda e: Ruling.open(e, _SWARM)),
        seeds=lambda: [_RULING.seal(_SWARM, key_of(FOUNDER)).payload],
    ),
    Target(
        name="policy-founding",
        shape="cbor",
        parse=sealed("mh/swarm/1", bytes(32), open_founding),
        seeds=lambda: [found().payload, open_to(WORKS).payload],
    ),
    Target(
        name="policy-update",
        shape="cbor",
        parse=sealed(
            "mh/swarm/1", _SWARM, lambda e: open_update(e, SwarmState(found()).policy, _SWARM)
        ),
        seeds=lambda: [_STATE.policy.seal(_SWARM, key_of(FOUNDER)).payload],
    ),
    Target(name="swarm-state", parse=_Member().answer, seeds=_swarm_questions),
    Target(name="invite", parse=_text(Invite.parse), seeds=lambda: [str(_invite()).encode()]),
    Target(name="redemption", parse=_redeem, seeds=lambda: [_redemption()], shape="cbor"),
    Target(name="redemption-answer", parse=_accept, seeds=lambda: [_redeem(_redemption())]),
    Target(
        name="certificate-tls",
        parse=verified_peer,
        seeds=lambda: [
            issue_client_leaf(identity_of(1)).certificate_pem,
            issue_server_leaf(identity_of(1)).certificate_pem,
        ],
    ),
    Target(
        name="peer-id",
        parse=_text(lambda text: public_key_from_peer_id(PeerId(text))),
        seeds=lambda: [peer_of(1).encode()],
    ),
)
