"""What a model says, taken apart: its answer, its thinking and the tools it calls.

Families write calls and thinking each in marks of their own (`dialect.py`, found by the model's
chat template). `reader.py` and `harmony.py` read a reply as it streams, `calls.py` the calls in
it; `history.py` turns earlier turns back into what a template expects, and `forcing.py` makes the
grammar of a reply that must call.
"""
