"""transformers models whose blocks are a swarm: the client holds the ends, peers run the blocks.

The window: `AutoDistributedModelForCausalLM`. Importing it loads no torch; `from_pretrained` does.
"""

from manyhands.distributed.auto import AutoDistributedModelForCausalLM

__all__ = ["AutoDistributedModelForCausalLM"]
