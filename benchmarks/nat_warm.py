"""Imports, once for all, what `serve`, `generate`, `doctor` and `swarm why` import when called.

For the process that the members of `nat_topologies` are forked from. It starts no thread.
"""

import gc
from contextlib import suppress
from importlib import import_module

MODULES = (
    *("manyhands.serve", "manyhands.generate", "manyhands.doctor.command", "manyhands.why"),
    *("manyhands.doctor.examining", "manyhands.doctor.registry", "manyhands.doctor.meeting"),
    *("manyhands.discovering", "manyhands.asking", "manyhands.party", "manyhands.moving"),
    *("node.node", "node.engine.selftest", "node.ports", "scheduler.client", "protocol.text"),
    *("transformers.models.llama.modeling_llama", "manyhands.governing.rules_command"),
    *("uvloop", "protocol.transport.libp2p", "protocol.transport.tunnels"),
)

for name in MODULES:
    with suppress(ImportError):  # extras that are not installed are not asked for either
        import_module(name)
gc.freeze()  # what is there now is shared by all, and looked through by none
