"""instructor: answers as pydantic models."""

from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel
from telling import API, check, run

CLIENT = OpenAI(base_url=API, api_key="none")
HELLO = [{"role": "user", "content": "A colour and a number"}]


class Thing(BaseModel):
    colour: Literal["red", "green"]
    n: Literal[1, 2, 3]


def ask(mode: instructor.Mode) -> Thing:
    client = instructor.from_openai(CLIENT, mode=mode)
    return client.chat.completions.create(
        model="default", messages=HELLO, response_model=Thing, max_tokens=100, max_retries=0
    )


@check("JSON_SCHEMA")
def _() -> None:
    assert isinstance(ask(instructor.Mode.JSON_SCHEMA), Thing)


@check("TOOLS")
def _() -> None:
    assert isinstance(ask(instructor.Mode.TOOLS), Thing)


run()
