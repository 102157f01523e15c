"""Text and ids: as transformers has them, whole characters only, and stops found across tokens."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from protocol.errors import BadModel, UsageError
from protocol.text import LONG_CHARS, Detokenizer, StopMatcher, Tokenizer
from tests.protocol.test_drawing import TINY

CORPUS = ["Once upon a time there was a cat. The cat sat on the mat, and the mat was blue."] * 8
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role not in ('user', 'assistant', 'system') %}"
    "{{ raise_exception('unknown role ' + message.role) }}{% endif %}"
    "<|{{ message.role }}|>{{ message.content | trim }}{{ eos_token }}\n"
    "{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}<|assistant|>{% generation %}{% endgeneration %}{% endif %}"
)
CONFIG = {
    "bos_token": "<s>",
    "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
}


@cache
def byte_level() -> bytes:
    """As GPT-2, Llama 3 and Qwen cut text."""
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return fast.to_str().encode()


@cache
def byte_fallback() -> bytes:
    """As Llama 2 and Mistral cut text: words with a mark before them, bytes where words fail."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyz.,", "▁t", "▁th", "▁the", "▁c", "▁ca", "▁cat"]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "c"), ("▁c", "a"), ("▁ca", "t")]
    fast = FastTokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    fast.add_special_tokens(["<unk>", "<s>", "</s>"])
    fast.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return fast.to_str().encode()


def tokenizer(
    tokenizer_json: bytes, main: Mapping[str, Any] = CONFIG, /, **files: Any
) -> Tokenizer:
    named = {f"{name}.json": json.dumps(content).encode() for name, content in files.items()}
    return Tokenizer(
        {
            "tokenizer.json": tokenizer_json,
            "tokenizer_config.json": json.dumps(main).encode(),
            **named,
        }
    )


@pytest.fixture(params=[byte_level, byte_fallback])
def either(request: pytest.FixtureRequest) -> Tokenizer:
    return tokenizer(request.param())


@pytest.mark.parametrize("bos", [None, True, False])
@pytest.mark.parametrize("tokenizer_json", [byte_level, byte_fallback])
def test_ids_are_those_of_transformers(
    tokenizer_json: Any, bos: bool | None, tmp_path: Path
) -> None:
    from transformers import PreTrainedTokenizerFast

    config = {**CONFIG, "tokenizer_class": "PreTrainedTokenizerFast"}
    if bos is not None:
        config |= {"add_bos_token": bos, "add_eos_token": not bos}
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ours = Tokenizer.from_directory(tmp_path)

    for text in ("", "the cat", " two  spaces ", "<s>marked</s>", "naïve 你好 🙂\n\tend"):
        assert ours.encode(text) == theirs.encode(text)
        bare = ours.encode(text, add_special_tokens=False)
        assert bare == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(bare) == theirs.decode(bare, skip_special_tokens=True)


def test_a_chat_is_what_transformers_renders(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    config = {**CONFIG, "chat_template": TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer.json").write_bytes(byte_level())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ours = Tokenizer.from_directory(tmp_path)
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": " Where is the <cat> & 'mat'? "},
    ]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"x": "<é>"}}}]

    for prompt in (True, False):
        assert ours.chat(
            messages, add_generation_prompt=prompt, tools=tools
        ) == theirs.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt, tools=tools
        )
    assert ours.encode_chat(messages) == theirs.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )


def test_a_template_file_wins_over_the_configuration() -> None:
    files = {"tokenizer.json": byte_level(), "chat_template.jinja": b"{{ messages[0].content }}!"}
    named = json.dumps({"chat_template": [{"name": "default", "template": "named"}]}).encode()

    assert Tokenizer(files).chat([{"role": "user", "content": "hi"}]) == "hi!"
    del files["chat_template.jinja"]
    assert Tokenizer(files | {"tokenizer_config.json": named}).chat([]) == "named"


@pytest.mark.parametrize(
    ("template", "error"),
    [
        (None, UsageError),
        (TEMPLATE, UsageError),  # the role below is unknown to it
        ("{% for %}", BadModel),
        ("{{ messages.append(1) }}", UsageError),
        ("{{ ''.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}", UsageError),
        ("{% for x in range(10**9) %}{% endfor %}", UsageError),
    ],
)
def test_messages_without_a_prompt_are_refused(
    template: str | None, error: type[Exception]
) -> None:
    ours = tokenizer(byte_level(), {**CONFIG, "chat_template": template})

    with pytest.raises(error):
        ours.chat([{"role": "stranger", "content": "hi"}])


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config": {"eos_token_id": [5, 6]}, "config": {"eos_token_id": 7}}, {5, 6}),
        ({"generation_config": {"eos_token_id": 5}}, {5}),
        ({"config": {"eos_token_id": 7}}, {7}),
        ({"config": {"text_config": {"eos_token_id": 8}}}, {8}),
        ({}, {1}),
    ],
)
def test_ids_that_end_an_answer_come_from_the_nearest_file(
    files: dict[str, Any], expected: set[int]
) -> None:
    assert tokenizer(byte_level(), **files).eos_ids == expected


def test_the_publishers_sampling_is_read() -> None:
    sampled = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": None}

    assert tokenizer(byte_level(), generation_config=sampled).generation_defaults == {
        "temperature": 0.6,
        "top_p": 0.9,
    }
    assert tokenizer(byte_level(), generation_config={"top_p": 0.9}).generation_defaults == {}


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"tokenizer.json": b"{}"},
        {"tokenizer.json": b"\xff"},
        {"tokenizer.json": byte_level(), "config.json": b"[]"},
        {"tokenizer.json": byte_level(), "tokenizer_config.json": b"{"},
    ],
)
def test_files_that_make_no_tokenizer_are_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(BadModel):
        Tokenizer(files)


def test_half_characters_are_no_text() -> None:
    with pytest.raises(UsageError, match="Unicode"):
        tokenizer(byte_level()).encode("half \ud800")


@settings(deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), max_size=40), data=st.data())
def test_pieces_make_the_text_and_hold_whole_characters(text: str, data: st.DataObject) -> None:
    for tokenizer_json in (byte_level, byte_fallback):
        ours = cached(tokenizer_json)
        ids = ours.encode(text.replace("\ufffd", ""))
        cut = data.draw(st.integers(0, len(ids)))
        before = ours.decode(ids[:cut])
        detokenizer = Detokenizer(ours, ids[:cut])

        pieces = [detokenizer.add(id) for id in ids[cut:]]

        assert not any("\ufffd" in piece for piece in pieces)
        assert before.rstrip("\ufffd") + "".join(pieces) == ours.decode(ids)
        assert detokenizer.flush() == ""


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 319), max_size=30))
def test_any_ids_at_all_have_their_text_told(ids: list[int]) -> None:
    ours = cached(byte_level)
    detokenizer = Detokenizer(ours)

    told = "".join(detokenizer.add(id) for id in ids) + detokenizer.flush()

    assert told == ours.decode(ids)


@cache
def cached(tokenizer_json: Any) -> Tokenizer:
    return tokenizer(tokenizer_json())


def test_special_tokens_have_no_text_and_break_no_words(either: Tokenizer) -> None:
    ids = either.encode("the cat", add_special_tokens=False)
    eos = either.encode("</s>", add_special_tokens=False)[-1]
    detokenizer = Detokenizer(either)

    told = "".join(detokenizer.add(id) for id in [ids[0], eos, *ids[1:], eos])

    assert told == either.decode([ids[0], eos, *ids[1:], eos])


def first_stop(text: str, stops: list[str]) -> str | None:
    """The text before the stop that is complete first, or None; the slow and plain way."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(len(stop) for stop in complete)]
    return None


@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=3),
)
def test_a_stop_is_found_however_the_text_is_cut(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    given_out = ""
    for number, piece in enumerate(pieces):
        given_out += matcher.add(piece)
        if matcher.has_stopped:
            text = "".join(pieces[: number + 1])
            break
        assert first_stop("".join(pieces[: number + 1]), stops) is None, "told at the very piece"
    else:
        text = "".join(pieces)
        given_out += matcher.flush()

    expected = first_stop(text, stops)
    assert given_out == (text if expected is None else expected)
    assert matcher.has_stopped == (expected is not None)


def test_text_that_may_begin_a_stop_is_held_back() -> None:
    matcher = StopMatcher(["\nUser:"])

    assert [matcher.add(piece) for piece in ("Hi\n", "Use", "ful", "\nUs", "er", ": x")] == [
        "Hi",
        "",
        "\nUseful",
        "",
        "",
        "",
    ]
    assert matcher.has_stopped
    assert matcher.add("more") == matcher.flush() == ""


@pytest.mark.parametrize("adds", [True, False])
def test_long_texts_have_the_ids_that_they_have_by_the_short_way(adds):
    tokenizer = Tokenizer.from_directory(TINY)
    text = "Once upon a time, a  fox\n\tran; \u00e9\u4f60\U0001f600 " * (LONG_CHARS // 20)

    whole = tokenizer._fast.encode(text, add_special_tokens=adds).ids

    assert len(text) > LONG_CHARS
    assert tokenizer.encode(text, add_special_tokens=adds) == whole
    assert 0 < tokenizer.at_least(text * 9, 64) <= len(tokenizer.encode(text * 9))
    assert tokenizer.at_least(text, len(whole)) == 0
