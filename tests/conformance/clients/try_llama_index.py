"""LlamaIndex's client of OpenAI-like APIs."""

from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from telling import API, check, run

GIVEN = {"api_base": API, "api_key": "none", "model": "default", "context_window": 1024}
HELLO = [ChatMessage(role="user", content="Hello")]


@check("chat")
def _() -> None:
    assert OpenAILike(**GIVEN, is_chat_model=True).chat(HELLO).message.content


@check("a streamed chat")
def _() -> None:
    model = OpenAILike(**GIVEN, is_chat_model=True)
    text = "".join(piece.delta or "" for piece in model.stream_chat(HELLO))
    assert text == model.chat(HELLO).message.content


@check("a plain completion")
def _() -> None:
    assert OpenAILike(**GIVEN, is_chat_model=False, max_tokens=8).complete("Once upon").text


@check("embeddings")
def _() -> None:
    model = OpenAILikeEmbedding(model_name="default", api_base=API, api_key="none")
    first, again = model.get_text_embedding_batch(["a hand", "a hand"])
    assert max(abs(x - y) for x, y in zip(first, again, strict=True)) < 1e-4


run()
