"""Fuzzers of every parser that a stranger's bytes reach.

`python -m tests.fuzz --inputs 1000000 [--only NAME]…` runs them; `test_fuzz.py` runs a few hundred
inputs of each. `harness.py` says what counts as a failure, `mutation.py` where inputs come from,
the `*_targets.py` what is fuzzed. A parser that a stranger's bytes reach has a target here.
"""
