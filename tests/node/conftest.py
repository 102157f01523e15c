"""Random checkpoints that the node's tests share, each written once per run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import write_checkpoint

Checkpoints = Callable[..., Path]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """`checkpoint(family, **sizes)`: a directory that nobody may change; equal calls share it."""
    made: dict[tuple[Any, ...], Path] = {}

    def make(family: str = "llama", **sizes: Any) -> Path:
        key = (family, *sorted(sizes.items()))
        if key not in made:
            made[key] = write_checkpoint(tmp_path_factory.mktemp(family), family, **sizes)
        return made[key]

    return make


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    import torch

    torch.set_num_threads(1)
