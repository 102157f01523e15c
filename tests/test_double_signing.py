"""26: a node that signs two statements under one number is found out by its own signatures."""

from dataclasses import replace

import pytest

from ledger.findings import Findings
from ledger.judging import DOUBLE_SEQ, judge
from ledger.meter import Rates
from ledger.tab import ProviderTab
from protocol.errors import SwarmIncomplete
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from scheduler.trust import read_trust
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer, whole


async def test_26_two_statements_of_one_number_are_kept_and_their_signer_is_used_no_more(
    tmp_path, monkeypatch
):
    honest, twice = ProviderTab.make_statement, []

    def again(self, meter, **what):
        if self.statement is not None and not twice:
            twice.append(self.statement.seq)
            self.statement = replace(self.statement, seq=self.statement.seq - 1)
        return honest(self, meter, **what)

    monkeypatch.setattr(ProviderTab, "make_statement", again)
    model = add_byte_tokenizer(write_checkpoint(tmp_path / "model"))
    network = MemoryNetwork(seed=3)
    built = Swarm(model, tmp_path, lambda identity: network.transport(identity, OPEN_SWARM_ID))
    try:
        (cheat,) = await built.start((0, 6), rates=Rates(10**9, 10**9, 0, 0, 0, 0, 0))
        async with built.client() as client:
            await whole(client.generate(built.request([1, 40, 77], max_tokens=24)))
            client.records.trust = read_trust([tmp_path / "client"], OPEN_SWARM_ID, ())
            with pytest.raises(SwarmIncomplete, match="not in quarantine") as refused:
                await whole(client.generate(built.request([1, 40, 78], wait_s=0.1)))
    finally:
        await built.aclose()
    trust = read_trust([tmp_path / "client"], OPEN_SWARM_ID, ())
    with Findings.open(tmp_path / "client", OPEN_SWARM_ID) as findings:
        kept = findings.faults()

    assert kept
    assert "ledger dispute list" in refused.value.hint
    assert {each.fault.kind for each in kept} == {DOUBLE_SEQ}
    assert judge(kept[0].fault, OPEN_SWARM_ID).is_self_proving
    assert trust.shunned == {cheat.node.identity.peer_id}
