"""What all tests share: hypothesis judges laws, not how busy the machine is."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "manyhands", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("manyhands")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--checkpoint",
        type=Path,
        help="also prove a swarm of processes equal to transformers on this checkpoint directory",
    )
