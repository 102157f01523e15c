"""What `serve` asks of the placement: blocks of one model, of several the one that needs it."""

from pathlib import Path
from typing import Any

import pytest

from manyhands.models import TINY, Model, find_model
from manyhands.placing import Placing, Servable
from node.moving_rules import Target
from protocol.announcements import Announcement
from protocol.measured import Measured
from protocol.messages import Span
from tests.announcing import NOW_MS, announce, peer_of
from tests.checkpoints import write_checkpoint
from tests.cli.command import manyhands

OWN = 9


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    """Of 8 and of 6 blocks."""
    other: Path = write_checkpoint(tmp_path_factory.mktemp("other"))
    return find_model(TINY), find_model(str(other))


def placing(*models: Model, capacity_blocks: int = 4) -> Placing:
    choices = tuple(Servable(model=m, capacity_blocks=capacity_blocks) for m in models)
    return Placing(choices=choices, peer_id=peer_of(OWN), region="")


def host(n: int, model: Model, span: tuple[int, int], **changes: Any) -> Announcement:
    manifest = model.manifest
    fields = {"manifest": manifest.digest, "n_blocks": manifest.n_blocks} | changes
    return announce(n, span, **fields)


def test_a_newcomer_takes_what_is_missing(models):
    chosen, span = placing(models[0]).first([host(1, models[0], (0, 4))])

    assert (chosen.model.name, span) == (TINY, Span(4, 8))


def test_of_two_models_a_newcomer_completes_the_one_that_is_begun(models):
    chosen, span = placing(*models).first([host(1, models[1], (0, 2))])

    assert (chosen.digest, span) == (models[1].manifest.digest, Span(2, 6))


def test_a_node_goes_over_to_a_busy_model_that_it_can_hold_when_others_hold_its_own(models):
    idle = [host(n, models[0], (0, 8)) for n in (OWN, 1)]
    busy = host(2, models[1], (0, 6), measured=Measured(rows_per_s=10**6, queue_us=10**6))
    choice = placing(*models, capacity_blocks=8)
    now = Target(models[0].manifest.digest, Span(0, 8))

    wishes = [choice.next([*idle, busy], now, NOW_MS + 30_000 * turn, ()) for turn in range(20)]

    there = Target(models[1].manifest.digest, Span(0, 6))
    assert {wish for wish in wishes if wish} == {there}
    assert choice.next([idle[0], busy], now, NOW_MS, ()) is None


def test_flags_for_one_model_are_refused_beside_two(tmp_path):
    for flags in (("--span", "0:2"), ("--name", "mine")):
        ended = manyhands("serve", TINY, TINY, *flags, "--home", tmp_path)
        assert ended.code == 2, ended.err
        assert "for one model" in ended.err


def test_a_bound_beside_a_span_is_refused(tmp_path):
    ended = manyhands("serve", TINY, "--span", "0:2", "--max-blocks", 1, "--home", tmp_path)

    assert ended.code == 2
    assert "leave out --max-blocks" in ended.err
