"""Vectors of texts over HTTP, as OpenAI's client asks for them, and as one machine makes them."""

import base64
import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openai
import pytest
import torch
from openai import OpenAI
from openai.types import CreateEmbeddingResponse
from pydantic import TypeAdapter
from transformers import AutoModelForCausalLM

from manyhands.gateway.faults import ApiError
from manyhands.gateway.pooling import pooling_of
from manyhands.gateway.prompts import all_ids
from manyhands.models import BUILT_IN
from protocol.text import Tokenizer
from tests.gateway.live import Live
from tests.gateway.test_access import key

TEXTS = ["Once upon a time", "a dog", "a cat and a dog play in the garden"]


@pytest.fixture(scope="module")
def wanted() -> list[np.ndarray]:
    """Means of the library's last hidden states, of length 1."""
    model = AutoModelForCausalLM.from_pretrained(BUILT_IN, dtype="float32").eval().model
    tokenizer, vectors = Tokenizer.from_directory(BUILT_IN), []
    for text in TEXTS:
        with torch.inference_mode():
            rows = model(torch.tensor([tokenizer.encode(text)])).last_hidden_state[0]
        mean = rows.mean(dim=0).numpy()
        vectors.append(mean / np.linalg.norm(mean))
    return vectors


def test_the_official_client_gets_the_vectors_of_one_machine(gateway, wanted):
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        told = client.embeddings.create(model="tiny", input=TEXTS)
        one = client.embeddings.create(model="tiny", input=TEXTS[0], encoding_format="float")

    assert [each.index for each in told.data] == [0, 1, 2]
    for each, vector in zip(told.data, wanted, strict=True):
        np.testing.assert_allclose(each.embedding, vector, atol=1e-5)
    np.testing.assert_allclose(one.data[0].embedding, wanted[0], atol=1e-5)
    assert told.usage.prompt_tokens == told.usage.total_tokens > one.usage.total_tokens


def test_a_key_with_room_for_few_answers_gets_all_its_vectors(gateway):
    inner = gateway.gateway
    before, inner.bounds = inner.bounds, replace(inner.bounds, max_per_key=2)
    try:
        with key(gateway) as text:
            bearer = {"authorization": f"Bearer {text}"}
            status, _, told = gateway.post(
                "/v1/embeddings", {"model": "tiny", "input": TEXTS}, **bearer
            )
    finally:
        inner.bounds = before

    assert (status, len(told["data"])) == (200, len(TEXTS))


@pytest.mark.parametrize(("n", "stays"), [(2, True), (2000, False)])
async def test_many_short_texts_are_taken_apart_where_they_hold_nobody_up(n, stays):
    threads = set[int]()

    def encode(text: str, add_special_tokens: bool) -> list[int]:
        threads.add(threading.get_ident())
        return [len(text)]

    served: Any = SimpleNamespace(
        tokenizer=SimpleNamespace(encode=encode, at_least=lambda text, most: 0),
        max_positions=64,
        model=SimpleNamespace(manifest=SimpleNamespace(vocab_size=9)),
    )
    assert await all_ids(served, ["dog", [7]] * n) == [[3], [7]] * n
    assert (threads == {threading.get_ident()}) is stays


def test_vectors_are_as_the_clients_own_types_say_and_are_paid_for(gateway, wanted):
    asked = {"model": "tiny", "input": TEXTS, "encoding_format": "base64"}

    _, headers, told = gateway.post("/v1/embeddings", {**asked, "user": "me"})

    TypeAdapter(CreateEmbeddingResponse).validate_python(
        told | {"data": [{**told["data"][0], "embedding": [0.0]}]}  # it decodes base64 later
    )
    raw = base64.b64decode(told["data"][1]["embedding"])
    np.testing.assert_allclose(np.frombuffer(raw, "<f4"), wanted[1], atol=1e-5)
    assert len(told["manyhands"]["receipts"]) == 2 * len(TEXTS), "two hops each"
    assert told["manyhands"]["pooling"] == "mean"
    assert headers["x-manyhands-ignored-params"] == "user"
    assert gateway.open_sessions() == 0


def test_more_texts_than_run_side_by_side_come_back_in_order(gateway):
    texts = [f"{'very ' * (index % 5)}long {index}" for index in range(40)]

    status, _, told = gateway.post("/v1/embeddings", {"model": "tiny", "input": texts})

    assert status == 200
    assert [each["index"] for each in told["data"]] == list(range(40))
    alone = gateway.post("/v1/embeddings", {"model": "tiny", "input": texts[33]})[2]
    np.testing.assert_allclose(
        told["data"][33]["embedding"], alone["data"][0]["embedding"], atol=1e-5
    )


def test_ids_are_taken_only_from_who_says_that_they_are_this_models(gateway, wanted):
    ids = gateway.post("/tokenize", {"prompt": TEXTS[0]})[2]["tokens"]
    own = {"manyhands": {"own_ids": True}}

    refused = gateway.post("/v1/embeddings", {"model": "tiny", "input": [ids]})[2]["error"]
    one = gateway.post("/v1/embeddings", {"model": "tiny", "input": ids, **own})[2]
    two = gateway.post("/v1/embeddings", {"model": "tiny", "input": [ids, ids], **own})[2]

    assert (refused["code"], refused["param"]) == ("invalid_value", "input")
    assert "check_embedding_ctx_length=False" in refused["message"]
    assert len(one["data"]) == 1
    assert len(two["data"]) == 2
    np.testing.assert_allclose(two["data"][1]["embedding"], wanted[0], atol=1e-5)


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"input": ""}, "invalid_value", "input"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": ["a", ""]}, "invalid_value", "input"),
        ({"input": ["a"] * 2049}, "unsupported_value", "input"),
        ({"input": "word " * 2000}, "context_length_exceeded", "input"),
        ({"input": [[1 << 20]], "manyhands": {"own_ids": True}}, "invalid_value", "input"),
        ({"dimensions": 64}, "unsupported_value", "dimensions"),
        ({"encoding_format": "hex"}, "unsupported_value", "encoding_format"),
        ({"manyhands": {"pooling": "cls"}}, "unsupported_value", "manyhands.pooling"),
        ({"model": "../../etc/passwd"}, "model_not_found", "model"),
    ],
)
def test_what_cannot_be_a_vector_is_refused_by_name(gateway, more, code, param):
    status, _, told = gateway.post("/v1/embeddings", {"model": "tiny", "input": "a", **more})

    assert status in (400, 404)
    assert (told["error"]["code"], told["error"]["param"]) == (code, param)


def test_the_dimensions_it_has_may_be_asked_for(gateway):
    asked = {"model": "tiny", "input": "a", "dimensions": 128}

    assert len(gateway.post("/v1/embeddings", asked)[2]["data"][0]["embedding"]) == 128


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        (None, "mean"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ([], "mean"),
        ({"pooling_mode_cls_token": True}, None),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True}, None),
    ],
)
def test_a_checkpoint_says_how_it_is_pooled(tmp_path: Path, pooling, wanted):
    if pooling is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))

    if wanted is None:
        with pytest.raises(ApiError, match="pooling"):
            pooling_of(tmp_path)
    else:
        assert pooling_of(tmp_path) == wanted


def test_a_checkpoint_with_layers_that_no_hop_runs_is_refused(tmp_path: Path):
    modules = [{"type": "sentence_transformers.models.Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))

    with pytest.raises(ApiError, match="Dense"):
        pooling_of(tmp_path)


def test_the_errors_are_those_of_the_official_client(gateway: Live):
    with (
        OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.BadRequestError) as refused,
    ):
        client.embeddings.create(model="tiny", input="a", dimensions=3)
    assert refused.value.param == "dimensions"
