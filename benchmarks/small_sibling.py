"""A small model to guess for the built-in one: two of its eight blocks, trained a little further.

In: where to write it. Out: a checkpoint with the built-in model's tokenizer, a third of its size,
whose guesses are right as often as a real small model's may be. Left alone, two blocks of eight say
nothing that the eight would; some steps on the text that the model was made from (`scripts/tiny/`)
mend that. Run: python benchmarks/small_sibling.py DIRECTORY [--steps 120]
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "manyhands" / "models" / "tiny"
sys.path.insert(0, str(ROOT / "scripts"))

KEPT = (0, 7)  # of the blocks: the first and the last
TEXT = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def write_sibling(directory: Path, steps: int) -> float:
    """Its held-out loss, in nats per token; the built-in model's is 0.21."""
    from tiny.training import Recipe, held_out_loss, train
    from tokenizers import Tokenizer
    from torch.nn import ModuleList
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(TINY, attn_implementation="eager")
    model.model.layers = ModuleList([model.model.layers[block] for block in KEPT])
    for place, block in enumerate(model.model.layers):
        block.self_attn.layer_idx = place
    model.config.num_hidden_layers = len(KEPT)
    model.config.layer_types = None
    recipe = Recipe(seed=11, steps=steps, warmup_steps=10, matrix_rate=0.005, vector_rate=0.001)
    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))

    def on_step(step: int, loss: float, seconds: float) -> None:
        if step % 20 == 0:
            print(f"step {step}/{steps}  loss {loss:.3f}  {seconds:.0f} s", flush=True)

    train(recipe, tokenizer, model, on_step)
    model.save_pretrained(directory)
    for name in TEXT:
        shutil.copy(TINY / name, directory / name)
    return held_out_loss(recipe, tokenizer, model)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, default=120)
    options = parser.parse_args()
    print(f"held-out loss {write_sibling(options.directory, options.steps):.3f}")
