"""LangChain's own client of OpenAI's API, and an agent of LangGraph's."""

from typing import Literal

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from telling import API, check, run

MODEL = ChatOpenAI(base_url=API, api_key="none", model="default", stream_usage=True, max_tokens=100)


class Colour(BaseModel):
    name: Literal["red", "green"]


@tool
def weather(city: Literal["Paris", "Oslo"]) -> str:
    """The weather in a city now."""
    return f"21 degrees in {city}"


@check("invoke, with usage")
def _() -> None:
    reply = MODEL.invoke("Hello")
    assert reply.content
    assert reply.usage_metadata["output_tokens"] > 0


@check("stream, with usage")
def _() -> None:
    whole = None
    for chunk in MODEL.stream("Hello"):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    assert whole.content == MODEL.invoke("Hello").content
    assert whole.usage_metadata["output_tokens"] > 0


@check("structured output")
def _() -> None:
    found = MODEL.with_structured_output(Colour, method="json_schema").invoke("A colour")
    assert isinstance(found, Colour)


@check("structured output by a tool")
def _() -> None:
    found = MODEL.with_structured_output(Colour, method="function_calling").invoke("A colour")
    assert isinstance(found, Colour)


@check("a tool call")
def _() -> None:
    reply = MODEL.bind_tools([weather], tool_choice="any").invoke("What is the weather in Oslo?")
    assert reply.tool_calls[0]["name"] == "weather"
    assert "21 degrees" in weather.invoke(reply.tool_calls[0]["args"])


@check("embeddings")
def _() -> None:
    embeddings = OpenAIEmbeddings(
        base_url=API, api_key="none", model="default", check_embedding_ctx_length=False
    )
    first, again, other = embeddings.embed_documents(["a hand", "a hand", "many feet"])
    assert max(abs(x - y) for x, y in zip(first, again, strict=True)) < 1e-4
    assert first != other


@check("LangGraph's agent")
def _() -> None:
    from langgraph.prebuilt import create_react_agent

    said = create_react_agent(MODEL, [weather]).invoke({"messages": [("user", "Hello")]})
    assert said["messages"][-1].type == "ai"


run()
