"""Faults go from who found them to all nodes; each judges for itself, rumours convince nobody."""

from collections import Counter
from types import SimpleNamespace

import pytest

from ledger.errors import DamagedLedger
from ledger.fault_words import METHOD, Asked, decode_told, encode_told, fitting
from ledger.findings import FILE_NAME, Findings
from ledger.judging import double_seq_fault
from ledger.objects import Statement
from ledger.spending import Fault
from node.accusations import Accusations
from protocol.errors import IntegrityError, PeerMisbehaved
from protocol.identity import peer_id_from_public_key
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.transport.grpc import GrpcTransport
from scheduler.fault_news import OWN_AT_ONCE, ROUNDS, OwnFaults, exchange_faults
from tests.checkpoints import write_checkpoint
from tests.ledger.parties import CLIENT, PROVIDER, STRANGER, SWARM
from tests.ledger.test_judging import OTHER, STATED, fault_of, verdict
from tests.local_swarm import Swarm, add_byte_tokenizer


def proven(key=PROVIDER, teller=CLIENT):
    """A fault that rests on nobody's word."""
    one, other = (
        Statement(
            session_id=bytes(16),
            terms_oid=bytes(32),
            seq=1,
            epoch=0,
            last_step=step,
            meter=STATED.meter,
            in_root=bytes(32),
            out_root=bytes(32),
            issued_ms=1,
        ).seal(SWARM, key)
        for step in (1, 2)
    )
    return double_seq_fault(key.public_key, one, other, SWARM).seal(SWARM, teller)


def attested():
    return fault_of(verdict(), verdict(OTHER, 2)).seal(SWARM, CLIENT)


def test_the_words_about_faults_survive_and_nothing_else_is_understood():
    asked = Asked(frozenset([b"12345678"]), (proven(),))

    assert Asked.decode(asked.encode()) == asked
    assert decode_told(encode_told([attested()])) == (attested(),)
    for data in (b"", b"\x80", asked.encode()[:-1], encode_told([])[:-1] + b"\x01\x00"):
        with pytest.raises(IntegrityError):
            Asked.decode(data)
    assert len(fitting([proven(SigningKey.from_seed(bytes([n]) * 32)) for n in range(20)])) == 8


def test_faults_of_our_own_are_told_in_turns_and_not_for_ever(tmp_path):
    own = OwnFaults(CLIENT.public_key)
    with Findings.open(tmp_path, SWARM) as findings:
        for n in range(3):
            findings.add(proven(SigningKey.from_seed(bytes([n]) * 32)))
        findings.add(proven(OTHER, teller=STRANGER))

        told = [own.following(findings) for _ in range(3 * ROUNDS)]

    counts = Counter(envelope.encode() for each in told for envelope in each)
    assert sorted(counts.values()) == [ROUNDS] * 3
    assert set(map(len, told[:10])) == {OWN_AT_ONCE}
    assert told[-1] == []


async def test_a_fault_that_one_client_tells_reaches_all_nodes_and_shuts_its_subject_out(tmp_path):
    model = add_byte_tokenizer(write_checkpoint(tmp_path / "model"))
    built = Swarm(model, tmp_path, lambda identity: GrpcTransport(identity, OPEN_SWARM_ID))
    accused = peer_id_from_public_key(PROVIDER.public_key)
    try:
        one, other = await built.start((0, 6), (0, 6))
        (tmp_path / "mine").mkdir()
        async with built.client() as client:
            await client.directory()
            with Findings.open(tmp_path / "mine", SWARM) as findings:
                live = {peer.peer_id: peer for peer in client._directory.live()}
                told = [live[one.node.peer_id]]
                findings.add(proven(teller=client.identity.key))  # as `dispute open` does
                await exchange_faults(client._connections, told, findings, [attested()])
                again = await client.exchange_faults(findings)
                heard = len(findings.faults())
            await other.node.accusations.hear(live[one.node.peer_id])
            await other.node.accusations.keep_out()

            rumour = Fault(kind="compute", accused=STRANGER.public_key, evidence=(b"trust me",))
            connection = await client._connections.to(
                one.node.peer_id, [str(way) for way in live[one.node.peer_id].to_dial]
            )
            false = Asked(told=(rumour.seal(SWARM, CLIENT),)).encode()
            with pytest.raises(PeerMisbehaved, match="a fault that is none"):
                await connection.call(METHOD, false, timeout_s=5)
        bans = [local.node.guard.bans.of(accused) for local in (one, other)]
    finally:
        await built.aclose()

    assert (again, heard) == (0, 2)
    for local in (one, other):
        with Findings.open(local.home, SWARM) as findings:
            assert len(findings.faults()) == 2
            assert list(findings.at_fault([])) == [PROVIDER.public_key]
    assert [ban is not None and "at fault" in ban.why for ban in bans] == [True, True]


async def test_our_own_damaged_findings_are_held_against_no_peer(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"no database" * 1000)
    offences: list[object] = []
    ours = Accusations(
        tmp_path,
        OPEN_SWARM_ID,
        SimpleNamespace(),  # type: ignore[arg-type]  # nobody is dialled
        list,
        SimpleNamespace(failed=lambda *what: offences.append(what)),  # type: ignore[arg-type]
        trusted=frozenset(),
    )

    with pytest.raises(DamagedLedger):
        await ours.handle(peer_id_from_public_key(OTHER.public_key), Asked(frozenset()).encode())
    assert offences == []
