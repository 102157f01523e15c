"""The API against its own description, by a generator that no one here wrote (schemathesis)."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from manyhands.gateway.describing import EVENTS, STREAMED
from tests.gateway.live import Live

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
MISTAKES = (500, 501, 502)  # 503 and 504 are answers: who asks may leave no time, or shut peers out
FEW = settings(
    max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
MANY = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Else nearly every body names a model that nobody serves, and is heard of no more."""
    if isinstance(body, dict) and "model" in body:
        short = {} if "max_output_tokens" in body else {"max_tokens": 2}
        return {**body, "model": "tiny", **(short if body.get("max_tokens") else {})}
    return body


def try_all(gateway: Live, run: settings) -> list[str]:
    """Every operation but one: the stream of the page's news goes on for ever."""
    schema = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")
    tried = []
    for found in schema.exclude(path="/api/v1/events").get_all_operations():
        operation = found.ok()

        @run
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            response = case.call_and_validate(checks=CHECKS)
            assert response.status_code not in MISTAKES

        check()
        tried.append(operation.label)
    return tried


def test_whatever_the_description_allows_is_answered_as_it_says(gateway: Live) -> None:
    assert len(try_all(gateway, FEW)) > 20


@pytest.mark.slow
def test_much_that_the_description_allows_is_answered_as_it_says(gateway: Live) -> None:
    assert len(try_all(gateway, MANY)) > 20


def test_the_description_knows_streams_and_says_no_status_that_is_never_sent(gateway: Live) -> None:
    _, _, told = gateway.ask("GET", "/openapi.json")

    for path in STREAMED:
        answers = told["paths"][path]["post"]["responses"]
        assert set(answers["200"]["content"]) == {"application/json", EVENTS}
        assert "422" not in answers
        assert answers["429"]["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
