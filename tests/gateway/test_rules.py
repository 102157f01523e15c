"""The gateway's tables and values, without a swarm: faults, names, keys, what bodies may hold."""

import inspect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.datastructures import Headers

from manyhands.gateway.asked import ChatAsked, CompletionAsked
from manyhands.gateway.catalogue import Catalogue, served_of
from manyhands.gateway.complaints import invalid
from manyhands.gateway.door import OWN_NAMES, admit_own
from manyhands.gateway.faults import CODES, FAULTS, ApiError, explained
from manyhands.gateway.formats import grammar_of
from manyhands.gateway.grants import ANYBODY
from manyhands.gateway.keys import KeyFile, Keys
from manyhands.gateway.refusals import UNSUPPORTED, require_supported
from manyhands.models import find_model
from protocol import errors
from protocol.errors import (
    ConfigError,
    NotFunded,
    PeerBusy,
    PeerUnreachable,
    SwarmIncomplete,
    UsageError,
)
from scheduler.affording import too_dear

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = [*ChatAsked.model_fields, *UNSUPPORTED, "other"]
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}


def test_every_error_of_ours_has_a_code_and_a_status():
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.ManyhandsError)
    ]

    assert set(CODES.values()) <= set(FAULTS)
    assert set(CODES) <= set(kinds)
    for kind in kinds:
        made = kind.__new__(kind)
        Exception.__init__(made, "what happened")
        made.hint, made.peer_id, made.missing = "", "", ()  # type: ignore[attr-defined]
        assert 400 <= explained(made).status <= 599


def test_who_failed_decides_what_a_caller_is_told():
    nobody, somebody = PeerUnreachable("", "nobody answers"), PeerUnreachable("peer-b", "gone")

    assert (explained(nobody).status, explained(nobody).code) == (503, "swarm_unreachable")
    assert (explained(somebody).status, explained(somebody).code) == (502, "peer_failed")
    assert explained(PeerBusy("peer-b", "full")).headers()["retry-after-ms"] == "1000"
    assert "secret" not in explained(ConfigError("secret path")).message


def test_what_mends_it_is_told_over_http_by_the_names_of_fields():
    limits = "others do: change --region, or allow --max-price, or ask again, or --wait"
    serve = "start a node for them: manyhands serve tiny --span 0:4"

    told = explained(SwarmIncomplete([(0, 8)], hint=limits)).body()["error"]

    fields = "change manyhands.regions, or allow manyhands.max_price, or ask again, or"
    assert told["hint"] == f"others do: {fields} manyhands.wait_s"
    assert told["hint"] in told["message"]
    assert explained(SwarmIncomplete([(0, 4)], hint=serve)).body()["error"]["hint"] == serve


@pytest.mark.parametrize(
    ("part", "code", "field"),
    [
        ({"type": "refusal"}, "invalid_value", "refusal"),
        ({"type": "refusal", "refusal": None}, "invalid_value", "refusal"),
        ({"type": "text", "text": 5}, "invalid_value", "text"),
        ({"type": "image_url"}, "unsupported_value", "type"),
    ],
)
def test_a_part_of_a_turn_is_judged_as_what_it_says_it_is(part, code, field):
    with pytest.raises(ValidationError) as wrong:
        ChatAsked.model_validate({**HELLO, "messages": [{"role": "assistant", "content": [part]}]})

    told = invalid(wrong.value.errors())

    assert (told.code, told.param) == (code, f"messages.0.content.0.{field}")


def test_a_hint_over_http_names_no_field_that_some_path_refuses_and_none_that_is_not_there():
    shut_out = "1 peer is at fault: manyhands ledger dispute list"

    dear = explained(too_dear(100, 5)).message
    fault = explained(SwarmIncomplete([(0, 4)], hint=f"{shut_out}; --no-quarantine uses them"))
    allotted = explained(NotFunded("", "no room", hint="set more aside with --allot"))

    assert "ask for less: fewer tokens at most, a shorter prompt" in dear
    assert "max_tokens" not in dear
    assert fault.body()["error"]["hint"] == shut_out
    assert "--allot" in allotted.message


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
def test_any_json_is_a_request_or_is_refused_with_a_field(more):
    try:
        asked = ChatAsked.model_validate({**HELLO, **more})
        require_supported(asked)
    except ValidationError as error:
        refusal = invalid(error.errors())
        assert refusal.code in ("invalid_value", "unsupported_value", "unsupported_parameter")
        assert refusal.param is None or refusal.param.split(".")[0] in FIELDS
        return
    except ApiError as refused:
        refusal = refused
    else:
        assert all(name.isascii() and name.isprintable() for name in asked.ignored())
        return
    assert refusal.param in {*UNSUPPORTED, "top_logprobs"}


@pytest.mark.parametrize(
    "more",
    [
        {"functions": [{"name": "f"}]},
        {"audio": {"voice": "x"}},
        {"n": 3, "best_of": 5},
        {"modalities": ["audio"]},
        {"function_call": {"name": "f"}},
    ],
)
def test_what_would_change_the_answer_is_never_ignored(more):
    with pytest.raises(ApiError) as refused:
        require_supported(ChatAsked.model_validate({**HELLO, **more}))

    assert refused.value.code == "unsupported_parameter"
    assert refused.value.param in more


def test_what_clients_send_by_themselves_passes():
    require_supported(
        ChatAsked.model_validate(
            {
                **HELLO,
                "tools": [],
                "tool_choice": "auto",
                "response_format": {"type": "text"},
                "logprobs": False,
                "top_logprobs": 0,
                "logit_bias": {},
                "modalities": ["text"],
            }
        )
    )


def test_a_completion_takes_text_ids_and_lists_of_either():
    def prompts(prompt: object) -> list[str | list[int]]:
        return CompletionAsked.model_validate({"model": "m", "prompt": prompt}).prompts

    assert prompts("a") == ["a"]
    assert prompts([1, 2]) == [[1, 2]]
    assert prompts(["a", "b"]) == ["a", "b"]
    assert prompts([[1], [2, 3]]) == [[1], [2, 3]]
    for wrong in (["a", 1], [[1], "a"], [-1], [True], 5, [[["a"]]]):
        with pytest.raises(ValidationError):
            prompts(wrong)


def test_a_choice_becomes_a_pattern_of_its_very_letters():
    asked = {**HELLO, "structured_outputs": {"choice": ["a.b", "<|é[1]>"]}}

    grammar = grammar_of(ChatAsked.model_validate(asked))

    assert str(grammar) == r"regex:(?:a\.b)|(?:<\|é\[1\]>)"
    with pytest.raises(ApiError, match="one format"):
        grammar_of(ChatAsked.model_validate({**asked, "response_format": {"type": "json_object"}}))


def test_names_lead_to_models_and_pins_to_these_weights_alone():
    catalogue = Catalogue(served_of([find_model("tiny")]), {"chat": "tiny"})
    pinned = catalogue.find("tiny").pinned

    assert catalogue.find("chat").id == catalogue.find("default").id == "tiny"
    assert catalogue.find(pinned).pinned == pinned
    assert catalogue.find("chat:poet").adapter == "poet"
    for wrong in ("tiny@00000000", "nothing", "", "tiny:", ":poet", "tiny@"):
        with pytest.raises(ApiError, match="tiny"):
            catalogue.find(wrong)
    with pytest.raises(UsageError, match="nowhere"):
        catalogue.point("default", "nowhere")
    with pytest.raises(UsageError, match="alias"):
        catalogue.point("tiny", "tiny")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil", "", "10.0.0.1:8400", "[::2]"],
)
def test_without_keys_foreign_names_are_turned_away(host):
    with pytest.raises(ApiError):
        admit_own(Headers({"host": host}))
    for own in OWN_NAMES:
        assert admit_own(Headers({"host": f"{own.upper()}:8400"})) == ANYBODY


def test_keys_are_kept_as_hashes_and_two_of_them_share_no_group(tmp_path):
    path = tmp_path / "gateway" / "keys.json"
    keys, first = Keys().made("one")
    keys, second = keys.made("two")
    keys.write(path)
    file = KeyFile(path)

    groups = {file.admit(f"Bearer {text}").group for text in (first, second)}

    assert len(groups) == 2
    assert first not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    for wrong in ("", "Bearer", "Bearer ", f"Basic {first}", f"Bearer {first}x", "Bearer \udcff"):
        with pytest.raises(ApiError):
            file.admit(wrong)
    keys.revoked("one").write(path)
    with pytest.raises(ApiError):
        file.admit(f"Bearer {first}")
    assert file.admit(f"bearer {second}")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"keys": 5}', '{"keys": [{}]}', '{"keys": [{"name": "a"}]}', "\x00"]
)
def test_a_damaged_file_of_keys_lets_nobody_in(tmp_path, text):
    path = tmp_path / "keys.json"
    path.write_text(text)

    with pytest.raises(ConfigError, match=r"keys\.json"):
        KeyFile(path)
