"""The clients on whatever answers at a URL: a gateway, something before it, or something else."""

from manyhands import AsyncClient
from tests.client.elsewhere import Reply, elsewhere

HELLO = [{"role": "user", "content": "Hello"}]


async def test_what_ends_a_line_to_python_alone_is_part_of_an_answer():
    said = "one\u2028two\u2029three\x85four"
    chunk = {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": said}, "finish_reason": None}],
    }

    async with elsewhere(lambda _: Reply.stream(chunk)) as url, AsyncClient(base_url=url) as client:
        stream = await client.chat.completions.create(messages=HELLO, stream=True)
        heard = [each.choices[0].delta.content async for each in stream]

    assert heard == [said]
