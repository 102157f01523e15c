"""The built-in model: its files are the ones its card names, and it answers what it never read."""

import ast
import json
import re
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from protocol.describing import make_manifest
from protocol.manifest import Manifest
from scripts.tiny import chat, corpus, heldout, judging, stories
from scripts.tiny.export import export
from scripts.tiny.training import Recipe, build_model, held_out_loss, train, train_tokenizer

ROOT = Path(__file__).parents[1]
TINY = ROOT / "manyhands" / "models" / "tiny"


@cache
def card() -> dict:
    return json.loads((TINY / "MODEL.json").read_text())


@cache
def model_and_tokenizer() -> tuple:
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(TINY)


def answer(question: str) -> str:
    model, tokenizer = model_and_tokenizer()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    out = model.generate(**prompt)
    return tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


# The files.


def test_every_file_is_the_one_the_card_names():
    for name, digest in card()["sha256"].items():
        assert sha256((TINY / name).read_bytes()).hexdigest() == digest, name
    assert set(card()["sha256"]) == {
        path.name
        for path in TINY.iterdir()
        if path.name not in ("MODEL.json", "README.md", "manifest.json")
    }


def test_its_manifest_says_what_lies_beside_it():
    stated = Manifest.from_json((TINY / "manifest.json").read_bytes())

    assert stated == make_manifest(TINY, name="tiny")
    assert (stated.name, stated.licence) == ("tiny", "Apache-2.0")
    assert all(place.sha256 for place in stated.tensors.values())


def test_the_weights_are_small_and_the_card_says_how_they_were_made():
    assert (TINY / "model.safetensors").stat().st_size <= 8_000_000
    assert 1_500_000 <= card()["n_parameters"] <= 5_000_000
    assert card()["licence"] == "Apache-2.0"
    assert {"seed", "steps"} <= set(card()["recipe"])


def test_the_card_speaks_of_these_weights():
    page = (TINY / "README.md").read_text()

    assert f"{card()['held_out_loss']:.3f}" in page
    assert f"--seed {card()['recipe']['seed']} --steps {card()['recipe']['steps']}" in page


def test_it_is_a_llama_of_eight_blocks_that_knows_its_end():
    config = json.loads((TINY / "config.json").read_text())
    generation = json.loads((TINY / "generation_config.json").read_text())

    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["num_hidden_layers"] == 8
    assert config["max_position_embeddings"] >= 512
    assert generation["eos_token_id"] == config["eos_token_id"] == 1
    assert not generation["do_sample"]
    assert "temperature" not in generation


# The tokenizer.


@pytest.mark.parametrize(
    "text", ["Once upon a time, Zoe sang.", "7 + 8 = 15.", "naïve 日本 🙂\n\n  two  spaces", ""]
)
def test_any_text_survives_the_tokenizer(text):
    bare = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    _, tokenizer = model_and_tokenizer()

    assert bare.decode(bare.encode(text).ids) == text
    assert tokenizer(text)["input_ids"] == bare.encode(text).ids


def test_the_chat_template_makes_the_prompt_it_was_trained_on():
    _, tokenizer = model_and_tokenizer()

    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who are you?"}], add_generation_prompt=True, tokenize=False
    )
    whole = tokenizer.apply_chat_template(
        [
            {"role": "system", "content": "Answer briefly."},
            {"role": "user", "content": "Who are you?"},
            {"role": "assistant", "content": "I am tiny."},
        ],
        tokenize=False,
    )

    document = chat.conversation([("Who are you?", "I am tiny.")], "Answer briefly.")
    assert prompt == chat.ask("Who are you?")
    assert whole == "".join(segment.text for segment in document)


def test_special_tokens_are_single_ids():
    bare = Tokenizer.from_file(str(TINY / "tokenizer.json"))

    assert bare.encode("".join(chat.SPECIAL_TOKENS)).ids == list(range(len(chat.SPECIAL_TOKENS)))


# What it is judged by is not what it was trained on.


def test_only_the_judge_imports_the_held_out_questions():
    importers = {
        path.name
        for path in (ROOT / "scripts").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom) and "heldout" in ast.unparse(node)
    }

    assert importers == {"score_tiny.py"}


def test_no_held_out_wording_is_a_training_wording_however_its_slots_are_filled():
    patterns = {wording: pattern_of(wording) for wording in corpus.all_wordings()}
    held_out = [q.text for q in heldout.QUESTIONS] + [p.text for p in heldout.STORY_PROMPTS]

    assert len(held_out) == len(set(held_out)) == 150
    for text in held_out:
        for form in (plain(text), undecorated(text)):
            assert not [wording for wording, p in patterns.items() if p.fullmatch(form)], text


def test_no_held_out_question_turns_up_in_the_training_text():
    rng = Random(5)
    held_out = {plain(q.text) for q in heldout.QUESTIONS}

    read = {
        plain(segment.text.split(chat.END)[0].replace(chat.USER, ""))
        for _ in range(5000)
        for segment in corpus.draw_document(rng)
        if not segment.is_written
    }

    assert len(read) > 1000
    assert not read & held_out


WORDS_OF_A_SLOT = {"a": 3, "t": 2, "w": 2}  # "the KV cache", "KV cache", "red ball"; else one


def plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w{}'+=\- ]", " ", text.lower()).split())


def pattern_of(wording: str) -> re.Pattern[str]:
    def slot(match: re.Match[str]) -> str:
        n_more = WORDS_OF_A_SLOT.get(match[1], 1) - 1
        return rf"[\w']+( [\w']+){{0,{n_more}}}"

    return re.compile(re.sub(r"\\\{(\w+)\\\}", slot, re.escape(plain(wording))))


def undecorated(text: str) -> str:
    """Without the greetings and thanks that training puts around any question."""
    text, before = plain(text), ""
    while text != before:
        before = text
        for prefix in corpus.PREFIXES:
            text = text.removeprefix(plain(prefix) + " ")
        for suffix in corpus.SUFFIXES:
            text = text.removesuffix(" " + plain(suffix))
    return text


# The judge.


def test_every_story_of_the_training_text_keeps_its_protagonist():
    rng = Random(3)
    casts = [stories.cast(rng) for _ in range(300)]

    assert all(judging.keeps_protagonist(stories.tell(rng, cast)) for cast in casts)


@pytest.mark.parametrize(
    "turn",
    ["Then Leo took it home. Leo slept.", "He went home. He slept.", "The frog left. It slept."],
)
def test_a_story_that_loses_its_protagonist_is_found_out(turn):
    story = "There was a girl named Zoe. Zoe had a ball. Zoe lost it. Zoe met a frog. The frog ran."

    assert judging.keeps_protagonist(story + " Zoe ran home.")
    assert not judging.keeps_protagonist(story + " " + turn)


def test_an_answer_needs_whole_words():
    assert judging.is_right("3 + 4 = 7.", "= 7")
    assert not judging.is_right("3 + 4 = 70.", "= 7")


# The model.


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is a node?", "serves a span of blocks"),
        ("My name is Zoe. What is my name?", "Zoe"),
        ("What is 2 + 3?", "= 5"),
        ("What is the capital of France?", "Paris"),
    ],
)
def test_it_answers_and_stops(question, expected):
    assert judging.is_right(answer(question), expected)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    recipe = Recipe(steps=2, n_windows=2, tokenizer_documents=300, held_out_batches=1)

    for directory in (tmp_path / "one", tmp_path / "two"):
        tokenizer = train_tokenizer(recipe)
        model = build_model(recipe, tokenizer)
        train(recipe, tokenizer, model, lambda *_: None)
        export(directory, model, tokenizer, recipe, held_out_loss(recipe, tokenizer, model))

    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
