"""Joining a swarm from a program, which may give anything."""

from pathlib import Path
from typing import Any

import pytest

from manyhands import AsyncClient, Client
from protocol.errors import UsageError


@pytest.mark.parametrize(("invite", "more"), [(5, {}), (None, {}), ("mh://", {"name": 5})])
async def test_what_is_no_text_is_no_invite(tmp_path: Path, invite: Any, more: Any):
    with pytest.raises(UsageError):
        Client.join(invite, home=tmp_path, **more)
    with pytest.raises(UsageError):
        await AsyncClient.join(invite, home=tmp_path, **more)
