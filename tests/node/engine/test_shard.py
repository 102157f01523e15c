"""Spans chained are the model: whatever the split, the packing and the history of the sessions."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from node.engine import Lease, ShardEngine, StepItem, load_shard
from node.engine.slabs import SlabLease
from protocol.errors import ContextExceeded, UsageError
from protocol.messages import Span
from tests.checkpoints import write_checkpoint

FAMILIES = ("llama", "mistral", "qwen3")
N_BLOCKS, N_TOKENS = 6, 64
PROMPT = [1, 40, 77, 123, 9, 250, 33, 180, 66, 12, 5, 301, 99]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, checkpoint: Any) -> "Family":
    return Family(checkpoint(request.param))


class Family:
    """A checkpoint, its unsplit model, and engines for any of its spans."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.directory = directory
        self.whole = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.engine = cache(lambda span: load_shard(directory, span))

    def chain(self, *borders: int) -> list[ShardEngine]:
        edges = [0, *borders, N_BLOCKS]
        return [self.engine(Span(a, b)) for a, b in pairwise(edges)]

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> Tensor:
        logits: Tensor = self.whole(torch.tensor([ids])).logits[0]
        return logits

    def greedy(self, prompt: list[int], n_tokens: int) -> list[int]:
        ids = self.whole.generate(
            torch.tensor([prompt]),
            max_new_tokens=n_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        generated: list[int] = ids[0, len(prompt) :].tolist()
        return generated


class Session:
    """One session through a chain of engines, or of parts of them."""

    def __init__(
        self, engines: list[ShardEngine], capacity: int = 96, parts: list[Span] | None = None
    ) -> None:
        self.engines = engines
        parts = parts or [engine.span for engine in engines]
        self.leases: list[Lease] = [
            engine.open(capacity, entry=part.start, exit=part.stop)
            for engine, part in zip(engines, parts, strict=True)
        ]

    def feed(self, ids: list[int], start: int) -> Tensor:
        """Logits of all rows."""
        rows, logits = torch.tensor(ids), None
        for engine, lease in zip(self.engines, self.leases, strict=True):
            result = engine.step([StepItem(lease, start, rows, len(ids))])[0]
            rows, logits = result.hidden, result.logits
        assert logits is not None
        return logits


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


def test_every_split_in_two_gives_the_logits_of_the_unsplit_model(family: Family) -> None:
    ids = PROMPT * 2
    expected = family.logits(ids)

    for border in range(1, N_BLOCKS):
        session = Session(family.chain(border))
        got = torch.cat([session.feed(ids[:20], 0), session.feed(ids[20:], 20)])

        assert relative_error(got, expected) <= 1e-5


def test_a_chain_writes_the_unsplit_models_greedy_text(family: Family) -> None:
    expected = family.greedy(PROMPT, N_TOKENS)
    assert len(set(expected)) >= 30, "a text that repeats itself proves little"
    session = Session(family.chain(2, 3))

    token, ids = int(session.feed(PROMPT, 0)[-1].argmax()), []
    for position in range(len(PROMPT), len(PROMPT) + N_TOKENS):
        ids.append(token)
        token = int(session.feed([token], position)[-1].argmax())

    assert ids == expected


def test_a_chain_may_enter_and_leave_a_span_midway(family: Family) -> None:
    engines = [family.engine(Span(0, 3)), family.engine(Span(0, 6)), family.engine(Span(3, 6))]
    session = Session(engines, parts=[Span(0, 2), Span(2, 4), Span(4, 6)])

    got = session.feed(PROMPT, 0)

    assert relative_error(got, family.logits(PROMPT)) <= 1e-5


PARTS = ((0, 6), (0, 3), (2, 5), (3, 6), (5, 6))


def test_sessions_that_run_different_parts_share_a_step(family: Family) -> None:
    engine = family.engine(Span(0, N_BLOCKS))
    torch.manual_seed(1)

    def rows(entry: int, count: int) -> Tensor:
        if entry == 0:
            return torch.randint(0, 300, (count,))
        return torch.randn(count, engine.hidden_size)

    def opened() -> list[Lease]:
        return [engine.open(32, entry=entry, exit=exit) for entry, exit in PARTS]

    alone, together, starts = opened(), opened(), [0] * len(PARTS)
    for counts in ((9, 4, 1, 7, 3), (1, 1, 1, 1, 1), (2, 1, 3, 1, 1)):
        given = [rows(entry, count) for (entry, _), count in zip(PARTS, counts, strict=True)]
        expected = [
            engine.step([StepItem(*item, 1)])[0] for item in zip(alone, starts, given, strict=True)
        ]

        got = engine.step(
            [StepItem(*item, 1) for item in zip(together, starts, given, strict=True)]
        )

        starts = [start + count for start, count in zip(starts, counts, strict=True)]
        assert [lease.length for lease in together] == starts
        for part, ours, theirs in zip(PARTS, got, expected, strict=True):
            assert relative_error(ours.hidden, theirs.hidden) <= 1e-5
            assert (ours.logits is not None) == (part[1] == N_BLOCKS)
            if ours.logits is not None and theirs.logits is not None:
                assert relative_error(ours.logits, theirs.logits) <= 1e-5


def test_rows_that_start_below_the_length_replace_what_followed(family: Family) -> None:
    session = Session(family.chain(3))
    session.feed(PROMPT, 0)
    session.feed([7, 8, 9], len(PROMPT))  # drafts, to be refused

    got = session.feed([55, 56], len(PROMPT))

    assert relative_error(got, family.logits([*PROMPT, 55, 56])[-2:]) <= 1e-5
    assert [lease.length for lease in session.leases] == [len(PROMPT) + 2] * 2


def test_a_repeated_step_changes_nothing(family: Family) -> None:
    session = Session(family.chain(3))
    session.feed(PROMPT, 0)

    first, second = session.feed([44], len(PROMPT)), session.feed([44], len(PROMPT))

    assert torch.equal(first, second)


def test_an_exported_session_goes_on_elsewhere(family: Family) -> None:
    session, other = Session(family.chain(3)), Session(family.chain(3), capacity=64)
    session.feed(PROMPT, 0)

    for source, target in zip(session.leases, other.leases, strict=True):
        for start in range(0, len(PROMPT), 5):
            target.load(source.export(start, min(start + 5, len(PROMPT))), start)

    assert torch.equal(other.feed([44], len(PROMPT)), session.feed([44], len(PROMPT)))


@pytest.mark.parametrize("capacity", [40, 96, 200])
def test_a_session_may_go_on_in_the_room_of_one_that_ended(family: Family, capacity: int) -> None:
    session, other = Session(family.chain(3)), Session(family.chain(3))
    session.feed(PROMPT, 0)
    other.feed(PROMPT, 0)
    taken = session.leases

    session.leases = [
        engine.open(capacity, entry=lease.entry, exit=lease.exit, reuse=lease)
        for engine, lease in zip(session.engines, taken, strict=True)
    ]

    assert [lease.length for lease in session.leases] == [len(PROMPT)] * 2
    assert [lease.capacity for lease in session.leases] == [max(capacity, 96)] * 2
    assert [lease.n_bytes for lease in taken] == [0, 0]
    assert torch.equal(other.feed([44], len(PROMPT)), session.feed([44], len(PROMPT)))


def test_rows_go_back_only_to_where_they_came_from(shard: ShardEngine) -> None:
    lease, other = shard.open(16), shard.open(8)
    shard.step([StepItem(lease, 0, torch.arange(12))])
    rows = lease.export(4, 8)
    assert (len(rows), rows.n_bytes) == (4, 4 * shard.kv_bytes_per_position)

    for wrong, at in ((rows, None), (rows, 0), (lease.export(0, 4), 4)):
        with pytest.raises(ValueError, match="do not go on"):
            other.load(wrong, at)
    with pytest.raises(ValueError, match="do not go on"):
        shard.open(16, entry=0, exit=2).load(lease.export())
    with pytest.raises(ContextExceeded):
        other.load(lease.export())
    with pytest.raises(ValueError, match="are not among"):
        lease.export(4, 13)
    assert other.length == 0


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_sessions_that_join_leave_and_roll_back_never_touch_each_other(
    family: Family, data: st.DataObject
) -> None:
    engine = family.engine(Span(0, 6))
    texts: list[list[int]] = []
    open_leases: dict[int, Lease] = {}
    for _ in range(data.draw(st.integers(2, 6))):
        if len(open_leases) < 5:
            open_leases[len(texts)] = engine.open(64)
            texts.append([])
        if len(open_leases) > 2 and data.draw(st.booleans()):
            open_leases.pop(data.draw(st.sampled_from(sorted(open_leases)))).close()
        items, asked = [], []
        for number in data.draw(st.sets(st.sampled_from(sorted(open_leases)), min_size=1)):
            start = data.draw(st.integers(max(0, len(texts[number]) - 4), len(texts[number])))
            rows = data.draw(st.lists(st.integers(0, 319), min_size=1, max_size=11))
            texts[number][start:] = rows
            wanted = data.draw(st.integers(0, len(rows)))
            items.append(StepItem(open_leases[number], start, torch.tensor(rows), wanted))
            asked.append((number, wanted))

        results = engine.step(items)

        for (number, wanted), result in zip(asked, results, strict=True):
            assert (result.logits is None) == (wanted == 0)
            if result.logits is not None:
                expected = family.logits(texts[number])[-wanted:]
                assert relative_error(result.logits, expected) <= 1e-5


def test_hidden_states_are_contiguous_rows_for_the_wire(family: Family) -> None:
    engine = family.engine(Span(0, 2))
    leases = [engine.open(16) for _ in range(3)]

    results = engine.step(
        [StepItem(lease, 0, torch.arange(1, 3 + n)) for n, lease in enumerate(leases)]
    )

    assert [tuple(result.hidden.shape) for result in results] == [(2, 64), (3, 64), (4, 64)]
    assert all(result.hidden.is_contiguous() for result in results)
    assert engine.row_bytes == results[0].hidden[0].nbytes


@pytest.fixture(scope="module")
def shard(checkpoint: Any) -> ShardEngine:
    return load_shard(checkpoint("llama"), Span(0, 3))


def test_an_engine_says_what_it_holds(shard: ShardEngine) -> None:
    assert (shard.span, shard.n_blocks, shard.embeds, shard.heads) == (Span(0, 3), 6, True, False)
    assert (shard.hidden_size, shard.vocab_size, shard.max_positions) == (64, 320, 256)
    assert shard.dtype == torch.float32
    assert shard.forward_kind == "DirectForward"
    lease = shard.open(10)
    assert lease.n_bytes == 10 * shard.kv_bytes_per_position
    assert isinstance(lease, SlabLease)
    assert lease.n_bytes == sum(s.keys.nbytes + s.values.nbytes for s in lease.slabs)
    assert shard.open(10, entry=1, exit=2).n_bytes == 10 * shard.kv_bytes_per_block


def test_untouched_positions_of_a_lease_take_no_memory(shard: ShardEngine) -> None:
    before = resident_bytes()

    leases = [shard.open(256) for _ in range(400)]

    assert sum(lease.n_bytes for lease in leases) > 75e6
    assert resident_bytes() - before < 40e6


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize(
    ("start", "rows", "error"),
    [
        (1, torch.tensor([1]), UsageError),  # a gap
        (-1, torch.tensor([1]), UsageError),
        (0, torch.tensor([1] * 17), ContextExceeded),
        (0, torch.tensor([320]), UsageError),  # outside the vocabulary
        (0, torch.tensor([-1]), UsageError),
        (0, torch.tensor([], dtype=torch.int64), UsageError),
        (0, torch.tensor([[1]]), UsageError),
        (0, torch.tensor([1], dtype=torch.int32), UsageError),
        (0, torch.zeros(1, 63), UsageError),  # neither ids nor hidden rows of this model
    ],
)
def test_rows_that_cannot_be_run_are_refused_and_the_lease_stays(
    shard: ShardEngine, start: int, rows: Tensor, error: type[Exception]
) -> None:
    lease = shard.open(16)

    with pytest.raises(error):
        shard.step([StepItem(lease, start, rows)])

    assert lease.length == 0


def test_blocks_and_lengths_that_are_not_there_are_refused(shard: ShardEngine) -> None:
    for entry, exit in ((0, 4), (2, 2), (-1, 2)):
        with pytest.raises(UsageError):
            shard.open(8, entry=entry, exit=exit)
    for capacity in (0, 257):
        with pytest.raises(ContextExceeded):
            shard.open(capacity)


def test_bfloat16_follows_float32_roughly(checkpoint: Any) -> None:
    directory = checkpoint("llama")
    exact, rough = load_shard(directory, None), load_shard(directory, None, dtype="bfloat16")

    logits = [Session([engine]).feed(PROMPT, 0) for engine in (exact, rough)]

    assert rough.row_bytes == 128
    assert logits[1].dtype == torch.float32
    assert relative_error(logits[1], logits[0]) < 0.2


def test_a_model_with_tied_ends_splits_as_well(tmp_path: Path) -> None:
    family = Family(write_checkpoint(tmp_path, "llama", tie_word_embeddings=True))

    got = Session(family.chain(2)).feed(PROMPT, 0)

    assert relative_error(got, family.logits(PROMPT)) <= 1e-5


def test_rows_embedded_elsewhere_enter_block_0_and_leave_behind_the_last_one(family):
    (engine,) = family.chain()
    ids = torch.tensor(PROMPT)
    with torch.inference_mode():
        told = family.whole(ids[None], output_hidden_states=True).hidden_states

    lease = engine.open(len(PROMPT))
    (result,) = engine.step([StepItem(lease, 0, told[0][0].clone())])

    by_ids = engine.step([StepItem(engine.open(len(PROMPT)), 0, ids, 1)])[0]
    assert result.logits is None
    assert torch.equal(result.hidden, by_ids.hidden)
