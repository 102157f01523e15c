"""Users who stream chats, one after the other, and time the first token."""

import json
import time

from locust import HttpUser, constant, task

BODY = {
    "model": "default",
    "stream": True,
    "max_tokens": 16,
    "messages": [{"role": "user", "content": "Hello"}],
}


class Asker(HttpUser):
    wait_time = constant(0)

    @task
    def ask(self) -> None:
        began, first, last = time.perf_counter(), 0.0, b""
        path = "/v1/chat/completions"
        with self.client.post(path, json=BODY, stream=True, catch_response=True) as response:
            for line in response.iter_lines():
                if line.startswith(b"data: "):
                    first, last = first or time.perf_counter(), line
                    if last != b"data: [DONE]" and "error" in json.loads(last[6:]):
                        response.failure(last.decode())
            if last != b"data: [DONE]":
                response.failure(f"the stream ended with {last!r}")
        self.environment.events.request.fire(
            request_type="SSE",
            name="first token",
            response_time=1000 * (first - began),
            response_length=0,
            exception=None,
            context={},
        )
