"""The model, its tokenizer and the loop that trains it: the same bytes from the same seed.

Weights and sums are fp32, the products of a step bf16; the caller sees to it that torch has one
thread. Step `i` draws its documents from a generator seeded with (seed, i), and the number of
steps is fixed, so nothing depends on how fast the machine is.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from .chat import END, PAD, SPECIAL_TOKENS
from .corpus import draw_document
from .packing import Batch, draw_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides the weights."""

    seed: int = 7
    steps: int = 1500
    n_windows: int = 21
    n_tokens: int = 192
    hidden_size: int = 128
    intermediate_size: int = 384
    vocab_size: int = 1536
    matrix_rate: float = 0.01
    vector_rate: float = 0.004
    warmup_steps: int = 60
    tokenizer_documents: int = 40_000
    held_out_batches: int = 8


def train_tokenizer(recipe: Recipe) -> Tokenizer:
    """A byte-level BPE of the text; the special tokens have the first ids."""
    rng = Random(f"{recipe.seed}:tokenizer")
    texts = (
        segment.text for _ in range(recipe.tokenizer_documents) for segment in draw_document(rng)
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=recipe.vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return tokenizer


def build_model(recipe: Recipe, tokenizer: Tokenizer) -> LlamaForCausalLM:
    """Untrained: 8 blocks, tied ends."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.02,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
    )
    config._attn_implementation = "eager"  # on a CPU, with a mask: twice as fast as sdpa
    return LlamaForCausalLM(config)


def batch_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Cross entropy per target, weighted."""
    logits = model(
        input_ids=batch.token_ids,
        position_ids=batch.positions,
        attention_mask=batch.mask,
        use_cache=False,
    ).logits
    losses = functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), reduction="none"
    )
    weights = batch.weights.flatten()
    return (losses * weights).sum() / weights.sum()


def training_batch(recipe: Recipe, tokenizer: Tokenizer, label: str) -> Batch:
    """The windows of one step; `label` names it within the seed."""
    return draw_batch(
        Random(f"{recipe.seed}:{label}"),
        tokenizer,
        draw_document,
        n_windows=recipe.n_windows,
        n_tokens=recipe.n_tokens,
    )


@torch.no_grad()
def held_out_loss(recipe: Recipe, tokenizer: Tokenizer, model: LlamaForCausalLM) -> float:
    """Mean loss, in nats per written token, on documents that no step draws."""
    total = weight = 0.0
    for i in range(recipe.held_out_batches):
        batch = training_batch(recipe, tokenizer, f"held out {i}")
        written = (batch.weights == 1.0).float()
        batch = Batch(batch.token_ids, batch.positions, batch.targets, written, batch.mask)
        n = written.sum().item()
        total += batch_loss(model, batch).item() * n
        weight += n
    return total / weight


def train(
    recipe: Recipe,
    tokenizer: Tokenizer,
    model: LlamaForCausalLM,
    on_step: Callable[[int, float, float], None],
) -> None:
    """Run all steps; `on_step` hears (step, loss, seconds since the start)."""
    optimizers = _optimizers(recipe, model)
    began = time.monotonic()
    model.train()
    for step in range(1, recipe.steps + 1):
        share = _rate_share(recipe, step)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["full_rate"] * share
        batch = training_batch(recipe, tokenizer, f"step {step}")
        with torch.autocast("cpu", torch.bfloat16):  # products only; sums and weights stay fp32
            loss = batch_loss(model, batch)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        on_step(step, loss.item(), time.monotonic() - began)
    model.eval()


def _rate_share(recipe: Recipe, step: int) -> float:
    """Warm up, then a cosine down to nothing."""
    if step <= recipe.warmup_steps:
        return step / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def _optimizers(recipe: Recipe, model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks (Jordan et al. 2024: fewer steps), AdamW for the rest."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = torch.optim.Muon(
        matrices, lr=recipe.matrix_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(others, lr=recipe.vector_rate, betas=(0.9, 0.95), weight_decay=0.0)
    for optimizer, rate in ((muon, recipe.matrix_rate), (adamw, recipe.vector_rate)):
        for group in optimizer.param_groups:
            group["full_rate"] = rate
    return [muon, adamw]
