"""Windows of whole documents: what one step of training reads.

In: a tokenizer and a generator. Out: token ids, positions, targets and weights, each
[windows, tokens], and a mask by which a document sees itself alone. No document is ever cut.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .chat import PAD, SPECIAL_TOKENS, Document

PAD_ID = SPECIAL_TOKENS.index(PAD)
READ_WEIGHT = 0.1  # what the model only reads counts a little, so that its words are known


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's windows."""

    token_ids: Tensor  # [windows, tokens]
    positions: Tensor  # [windows, tokens]: each document starts at 0
    targets: Tensor  # [windows, tokens]: the token after each
    weights: Tensor  # [windows, tokens]: how much each target counts
    mask: Tensor  # [windows, 1, tokens, tokens]: added to the attention scores


def encode(tokenizer: Tokenizer, document: Document) -> tuple[list[int], list[float]]:
    """The document's ids, and the weight of each as a target."""
    ids: list[int] = []
    weights: list[float] = []
    for segment in document:
        new = tokenizer.encode(segment.text, add_special_tokens=False).ids
        ids += new
        weights += [1.0 if segment.is_written else READ_WEIGHT] * len(new)
    return ids, weights


def draw_batch(
    rng: Random,
    tokenizer: Tokenizer,
    draw: Callable[[Random], Document],
    *,
    n_windows: int,
    n_tokens: int,
) -> Batch:
    """Draw documents until one fits in no window any more."""
    ids = torch.full((n_windows, n_tokens + 1), PAD_ID)
    weights = torch.zeros(n_windows, n_tokens + 1)
    positions = torch.zeros(n_windows, n_tokens + 1, dtype=torch.long)
    owners = torch.zeros(n_windows, n_tokens + 1, dtype=torch.long)  # 0 is padding
    filled = [0] * n_windows
    for number in range(1, 1_000_000):
        new, new_weights = encode(tokenizer, draw(rng))
        room = [row for row in range(n_windows) if filled[row] + len(new) <= n_tokens + 1]
        if not room:
            break
        row, start = room[0], filled[room[0]]
        stop = start + len(new)
        ids[row, start:stop] = torch.tensor(new)
        weights[row, start:stop] = torch.tensor(new_weights)
        weights[row, start] = 0.0  # nothing comes before the first token
        positions[row, start:stop] = torch.arange(len(new))
        owners[row, start:stop] = number
        filled[row] = stop
    owners = owners[:, :-1]
    sees = (owners[:, :, None] == owners[:, None, :]).tril()  # padding sees padding: never empty
    mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
    return Batch(ids[:, :-1], positions[:, :-1], ids[:, 1:], weights[:, 1:], mask[:, None])
