"""openai-node, as its lock pins it, against a real swarm. Needs node and npm's registry."""

from pathlib import Path

import platformdirs
import pytest

from tests.conformance.__main__ import checks
from tests.conformance.environments import NotInstalled, prepare
from tests.conformance.trials import TRIALS
from tests.gateway.live import Live


def test_what_openai_node_asks_it_gets(gateway: Live, tmp_path: Path) -> None:
    trial = TRIALS["openai-node"]
    environments = platformdirs.user_cache_path("manyhands") / "conformance"  # fetched once
    try:
        command = prepare(trial, environments)
    except NotInstalled as error:
        pytest.skip(str(error))  # names what is to be installed

    told = [*checks(trial, command, environments, tmp_path, gateway.url)]

    assert {each["what"]: each["why"] for each in told if each["why"]} == {}
    assert "retries" in [each["what"] for each in told]
