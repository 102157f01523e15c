"""A span over several devices of one machine: which block lies where, and how rows get there.

In: a loaded model and the names of devices. Out: the same model, its blocks moved in runs, each of
them taking its inputs along to where it lies. Everything else, embedding, norm, head, stays on the
first device, and so do rows as they come and go. Keys and values lie with their block.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from node.engine.pruning import find_blocks
from node.engine.room import free_bytes
from node.share import Share
from protocol.errors import OutOfMemory


def lay_out(block_bytes: Sequence[int], free: Sequence[int]) -> list[int]:
    """The device of each block, as runs in order, so that the fullest has as much left as can be.

    Raises:
        OutOfMemory: they do not fit.
    """
    places = _runs(block_bytes, free, at_least=0)
    if places is None:
        raise OutOfMemory(
            f"{len(block_bytes)} blocks of {sum(block_bytes) >> 20} MiB do not fit on devices with "
            + ", ".join(f"{each >> 20}" for each in free)
            + " MiB free",
            hint="serve a shorter --span, or a smaller --dtype",
        )
    low, high = 0, max(free, default=0)
    while low < high:  # the most that every device in use can keep for sessions
        middle = (low + high + 1) // 2
        better = _runs(block_bytes, free, at_least=middle)
        if better is None:
            high = middle - 1
        else:
            low, places = middle, better
    return places


def _runs(block_bytes: Sequence[int], free: Sequence[int], at_least: int) -> list[int] | None:
    """Fill device after device, leaving `at_least` on each; None where the blocks do not fit."""
    places, device, used = [], 0, 0
    for n_bytes in block_bytes:
        while device < len(free) and used + n_bytes + at_least > free[device]:
            device, used = device + 1, 0
        if device == len(free):
            return None
        places.append(device)
        used += n_bytes
    return places


def spread(model: Any, names: Sequence[str], share: Share | None = None) -> None:
    """Lay the blocks of `model` out over the devices `names`, of each `share` at most.

    Raises:
        OutOfMemory: they do not fit there.
    """
    devices = [torch.device(name) for name in names]
    owner, attribute = find_blocks(model)
    blocks = list(getattr(owner, attribute))
    block_bytes = [sum(p.nbytes for p in block.parameters()) for block in blocks]
    others = sum(p.nbytes for p in model.parameters()) - sum(block_bytes)
    free = [free_bytes(name, share) or 0 for name in names]
    places = lay_out(block_bytes, [free[0] - others, *free[1:]])
    model.to(devices[0])
    for block, place in zip(blocks, places, strict=True):
        block.to(devices[place])
        block.forward = _moving(block.forward, devices[place])
    blocks[-1].forward = _moving(blocks[-1].forward, devices[places[-1]], back=devices[0])


def _moving(
    forward: Callable[..., Any], device: torch.device, back: torch.device | None = None
) -> Callable[..., Any]:
    """`forward` with its tensors brought to `device`, and its output then to `back`."""

    def moved(*args: Any, **kwargs: Any) -> Any:
        output = forward(
            *(_to(value, device) for value in args),
            **{name: _to(value, device) for name, value in kwargs.items()},
        )
        return output if back is None else _to(output, back)

    return moved


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_to(part, device) for part in value)
    return value
