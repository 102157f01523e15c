"""What a last hop tells of a prompt is what it was asked, or it is lost: nothing else is kept."""

from types import SimpleNamespace

import pytest

from protocol.checks import MAX_POSITIONS
from protocol.errors import PeerMisbehaved
from protocol.logprobs import Logprobs, PromptLogprobs
from scheduler.request import GenerationRequest
from scheduler.transcript import Transcript

LAST, OTHER = "last", "other"
PROMPT = (7, 3, 9, 1)


def asking(prompt_logprobs: int | None = 2, prompt: tuple[int, ...] = PROMPT):
    """A transcript and the rules of a session whose second epoch runs."""
    request = GenerationRequest(
        manifest=bytes(32),
        n_blocks=8,
        prompt_ids=prompt,
        max_tokens=4,
        prompt_logprobs=prompt_logprobs,
    )
    watch = SimpleNamespace(token=lambda: None)
    hops = [SimpleNamespace(peer=OTHER), SimpleNamespace(peer=LAST)]
    return Transcript(watch, request), SimpleNamespace(hops=hops, n_prompt=len(prompt), epoch=1)


def told(start: int = 1, n: int = 3, n_top: int = 2, epoch: int = 1) -> PromptLogprobs:
    each = Logprobs(-1.0, tuple(range(n_top)), (-1.0,) * n_top)
    return PromptLogprobs.of(epoch, start, [each] * n)


@pytest.mark.parametrize(
    "bad",
    [told(start=2), told(start=4, n=1), told(start=200_000, n=5000), told(n_top=3), told(n_top=1)],
)
def test_who_tells_of_what_was_not_asked_misbehaves_and_nothing_of_it_is_kept(bad):
    transcript, rules = asking()

    with pytest.raises(PeerMisbehaved, match=LAST):
        transcript.heard(LAST, bad, rules)

    assert not transcript._read


def test_an_epoch_that_nobody_began_is_no_answer_and_an_earlier_one_is():
    transcript, rules = asking()

    transcript.heard(LAST, told(epoch=0), rules)
    assert len(transcript._read) == 3
    with pytest.raises(PeerMisbehaved, match="not given"):
        transcript.heard(LAST, told(epoch=2), rules)


def test_a_vocabulary_with_fewer_ids_than_asked_for_is_told_whole():
    transcript, rules = asking(prompt_logprobs=15)

    transcript.heard(LAST, told(n_top=10), rules)
    assert len(transcript._read) == 3
    with pytest.raises(PeerMisbehaved, match="9 likeliest ids, of 15"):
        transcript.heard(LAST, told(n_top=9), rules)  # 9 is in the prompt: there are 10 at least


def test_what_nobody_asked_or_another_hop_says_is_passed_over():
    for transcript, rules in (asking(), asking(prompt_logprobs=None)):
        transcript.heard(OTHER, told(start=200_000), rules)
        assert not transcript._read
    transcript.heard(LAST, told(start=200_000), rules)
    assert not transcript._read


def test_positions_that_no_session_has_are_no_message():
    with pytest.raises(PeerMisbehaved, match="position out of range"):
        told(start=MAX_POSITIONS, n=1)
