"""Server-sent events, as the HTML standard interprets an event stream (section 9.2.6).

In: the bytes of a body, cut anywhere. Out: the data of each event. Lines end at LF, CR LF and CR,
and nowhere else: what else splits text into lines (U+2028, U+0085) is part of an answer. Beyond the
standard, an event that the stream's end cuts off is told too: some leave out the last empty line.
"""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from typing import Any

LINE_END = re.compile(rb"\r\n|\n|\r")
BOM = b"\xef\xbb\xbf"
MAX_EVENT_BYTES = 64 << 20
DONE = "[DONE]"  # how a stream of OpenAI's kind ends


async def data_of(
    parts: AsyncIterable[bytes], *, max_bytes: int = MAX_EVENT_BYTES
) -> AsyncGenerator[str, None]:
    """
    Raises:
        ValueError: an event is longer than `max_bytes`.
    """
    lines, data = _Lines(), list[bytes]()
    async for part in parts:
        for line in lines.of(part):
            if line:
                data += _data(line)
            elif data:
                yield _text(data)
                data = []
        if lines.n_bytes + sum(map(len, data)) > max_bytes:
            raise ValueError(f"an event of more than {max_bytes} bytes")
    data += _data(lines.rest())
    if data:
        yield _text(data)


def object_of(data: str | bytes) -> dict[str, Any] | None:
    """The JSON object that it is, if it is one."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class _Lines:
    def __init__(self) -> None:
        self._begun: list[bytes] = []  # of the line that has not ended
        self._ended_in_cr = False
        self._is_first = True
        self.n_bytes = 0  # of the line that has not ended

    def of(self, part: bytes) -> Iterator[bytes]:
        """The lines that end in this part."""
        if self._ended_in_cr and part.startswith(b"\n"):
            part = part[1:]
            self._ended_in_cr = False
        if not part:
            return
        self._ended_in_cr = part.endswith(b"\r")
        *ended, left = LINE_END.split(part)
        for line in ended:
            self._begun.append(line)
            yield self.rest()
        self._begun.append(left)
        self.n_bytes += len(left)

    def rest(self) -> bytes:
        line, self._begun, self.n_bytes = b"".join(self._begun), [], 0
        if self._is_first:
            line, self._is_first = line.removeprefix(BOM), False
        return line


def _data(line: bytes) -> list[bytes]:
    name, _, value = line.partition(b":")
    return [value.removeprefix(b" ")] if name == b"data" else []


def _text(data: list[bytes]) -> str:
    return b"\n".join(data).decode(errors="replace")
