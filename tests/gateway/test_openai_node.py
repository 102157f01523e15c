"""openai-node, as its lock pins it, against a real swarm. Needs node and npm's registry."""

from pathlib import Path

import pytest

from tests.conformance.__main__ import checks
from tests.conformance.environments import NotInstalled, prepare
from tests.conformance.trials import TRIALS
from tests.gateway.live import Live


@pytest.mark.slow
def test_what_openai_node_asks_it_gets(gateway: Live, tmp_path: Path) -> None:
    trial = TRIALS["openai-node"]
    try:
        command = prepare(trial, tmp_path)
    except NotInstalled as error:
        pytest.skip(str(error))  # names what is to be installed

    told = [*checks(trial, command, tmp_path, tmp_path, gateway.url)]

    assert {each["what"]: each["why"] for each in told if each["why"]} == {}
    assert "retries" in [each["what"] for each in told]
