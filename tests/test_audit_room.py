"""What is kept for audits has its place in a machine's memory, and is counted there."""

from hypothesis import given
from hypothesis import strategies as st

from manyhands.audit_room import MOST_FINGERPRINTS, MOST_ROWS, PART, AuditRoom, audit_room
from manyhands.models import find_model
from manyhands.planning import forecast
from node.share import Share
from protocol.messages import Span


@given(st.integers(0, 1 << 45))
def test_audits_take_no_more_than_a_part_of_memory_and_no_more_than_is_of_use(total: int) -> None:
    room = AuditRoom.within(total)

    assert 0 <= room.n_bytes <= total // PART
    assert room.rows <= MOST_ROWS
    assert room.fingerprints <= MOST_FINGERPRINTS
    assert AuditRoom.within(10 << 30).n_bytes == MOST_ROWS + MOST_FINGERPRINTS


def test_a_node_that_may_take_less_of_its_memory_keeps_less_for_audits() -> None:
    all_of_it, a_little = audit_room("cpu", None), audit_room("cpu", Share.parse("1GiB"))

    assert a_little.n_bytes <= (1 << 30) // PART < all_of_it.n_bytes
    assert audit_room("cuda:0", Share.parse("1GiB")) == all_of_it  # it lies beside the GPU's


def test_a_plan_tells_what_audits_take_and_counts_it() -> None:
    tiny = find_model("tiny")
    share = Share.parse("64GiB")  # more than there is, or a bound: the same in both calls
    told, _ = forecast(
        tiny,
        Span(0, 8),
        dtype="float32",
        device="cpu",
        quantize="none",
        kv_cache_bytes=1 << 20,
        share=share,
    )

    kept = audit_room("cpu", share).n_bytes
    assert told.audit_bytes == told.to_json()["audit_bytes"] == kept
    assert told.plan.kv_cache_bytes == 1 << 20
    assert any(line.startswith("audits: up to ") for line in told.lines())
    room, free = told.plan.room_bytes, told.free_bytes
    assert room is None or room == (free or 0) - (1 << 20) - kept
