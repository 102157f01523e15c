"""What transformers takes for a KV cache: lengths and padding here, keys and values with the peers.

In: hidden rows of a batch and which of them are padding. Out: the rows behind the blocks. Padding
is never sent: each row of the batch is a lane of its own that counts its real positions from 0, and
where padding was, zeros come back.
"""

import weakref

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from manyhands.distributed.lanes import Lanes
from manyhands.portal import Portal
from node.rows import from_wire, to_wire
from protocol.errors import UsageError
from protocol.wire import WireFormat

Rows = list[bytes]


class RemoteCache(Cache):  # type: ignore[misc]  # its base has no types
    """One per batch. Closing it settles its sessions; a forgotten one is closed behind us."""

    is_compileable = False

    def __init__(self, portal: Portal, lanes: Lanes, wire: WireFormat, hidden_size: int) -> None:
        self.layers: list[object] = []  # the base class asks for it
        self._portal, self._wire, self._hidden_size = portal, wire, hidden_size
        self._lanes = lanes
        self._real = torch.zeros(0, 0, dtype=torch.bool)  # [batch, positions]: no padding
        self._closing = weakref.finalize(self, _close_later, portal, self._lanes)
        self._closing.atexit = False

    def run(self, hidden: Tensor, real: Tensor | None) -> Tensor:
        """Rows [batch, rows, hidden_size], of which `real` ones are no padding, and what they give.

        Raises:
            UsageError: they are no rows of this model.
            ManyhandsError: why the swarm could not run them.
        """
        if not self._closing.alive:
            raise UsageError("this cache is closed", hint="make another one: model.new_cache()")
        self._check(hidden)
        batch, rows, size = hidden.shape
        real = torch.ones(batch, rows, dtype=torch.bool) if real is None else real.cpu()
        if not self.get_seq_length():
            self._real = torch.zeros(batch, 0, dtype=torch.bool)
        if self._real.shape[0] != batch:
            raise UsageError(f"this cache is of {self._real.shape[0]} rows, not of {batch}")
        sent = [self._split(lane[kept]) for lane, kept in zip(hidden, real, strict=True)]
        if not any(sent):
            raise UsageError("all of these rows are padding")
        answers = self._portal.call(self._lanes.run(sent))
        self._real = torch.cat([self._real, real], dim=1)
        out = torch.zeros_like(hidden)
        for lane, kept, answer in zip(out, real, answers, strict=True):
            if answer:
                lane[kept] = from_wire(
                    self._wire, memoryview(bytearray(answer)), size, hidden.dtype, hidden.device
                )
        return out

    def _check(self, hidden: Tensor) -> None:
        shape = list(hidden.shape)
        if len(shape) != 3 or shape[-1] != self._hidden_size or not hidden.is_floating_point():
            raise UsageError(
                f"not rows of this model: {hidden.dtype} {shape}",
                hint=f"floating point, [batch, rows, {self._hidden_size}]: the hidden size",
            )
        if not hidden.numel():
            raise UsageError(f"there are no rows in {shape}", hint="give one row or more")

    def _split(self, rows: Tensor) -> Rows:
        """Each row as it travels."""
        if not rows.shape[0]:
            return []
        data = to_wire(self._wire, rows)
        row_bytes = len(data) // rows.shape[0]
        return [bytes(data[at : at + row_bytes]) for at in range(0, len(data), row_bytes)]

    @property
    def failovers(self) -> int:
        """How often a hop was replaced."""
        return self._lanes.failovers

    def close(self) -> None:
        """Settle every tab and free every hop."""
        if self._closing.detach():
            self._portal.call(self._lanes.aclose())

    # --- what generation asks of a cache ----------------------------------------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return int(self._real.shape[1])

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.get_seq_length()

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    @property
    def batch_size(self) -> int:
        return int(self._real.shape[0]) if self.get_seq_length() else -1

    def crop(self, tokens_to_remove: int) -> None:
        """Forget so many of the last positions, given as a negative number."""
        if tokens_to_remove > 0:
            raise ValueError("give the number of positions to forget as a negative one")
        if tokens_to_remove:
            self.cut(max(0, self.get_seq_length() + tokens_to_remove))

    def cut(self, length: int) -> None:
        """Keep the first `length` positions, padding included."""
        if not 0 <= length <= self.get_seq_length():
            raise UsageError(f"{length} of {self.get_seq_length()} positions cannot be kept")
        self._real = self._real[:, :length]
        self._lanes.crop(self._real.sum(dim=1).tolist())

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.get_seq_length():
            self._portal.call(self._lanes.select(indices.tolist()))
            self._real = self._real[indices.cpu()]

    def batch_repeat_interleave(self, repeats: int) -> None:
        n = self._real.shape[0]
        self.batch_select_indices(torch.arange(n).repeat_interleave(repeats))

    def reset(self) -> None:
        self.cut(0)


def _close_later(portal: Portal, lanes: Lanes) -> None:
    portal.later(lanes.aclose())
