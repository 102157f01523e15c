"""Train the built-in model from nothing: made-up text, a tokenizer, eight blocks.

In: a seed and a number of steps. Out: a directory with all the model's files. The same seed,
steps, library versions and processor give the same bytes; the clock has no say. The text and the
recipe are in `scripts/tiny/`.

    python scripts/train_tiny.py --out DIRECTORY [--steps N] [--seed N] [--checkpoint-every N]
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from tiny.export import export
from tiny.training import Recipe, build_model, held_out_loss, train, train_tokenizer


def main() -> int:
    defaults = Recipe()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where the files go")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument(
        "--checkpoint-every", type=int, default=0, metavar="STEPS", help="write the files so often"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)  # more threads would add up in another order
    torch.use_deterministic_algorithms(True)
    recipe = Recipe(seed=options.seed, steps=options.steps)
    tokenizer = train_tokenizer(recipe)
    model = build_model(recipe, tokenizer)

    def on_step(step: int, loss: float, seconds: float) -> None:
        if step % 25 == 0 or step in (1, recipe.steps):
            print(f"step {step}/{recipe.steps}  loss {loss:.3f}  {seconds:.0f} s", flush=True)
        if options.checkpoint_every and step % options.checkpoint_every == 0 < recipe.steps - step:
            export(options.out, model, tokenizer, recipe, loss)

    train(recipe, tokenizer, model, on_step)
    loss = held_out_loss(recipe, tokenizer, model)
    export(options.out, model, tokenizer, recipe, loss)
    print(f"held-out loss {loss:.4f}; files in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
