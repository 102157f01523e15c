"""Petals in an environment of its own, beside us: `python -m benchmarks.petals`.

`programs/` has what is measured, as scripts of their own; the rest asks them and tells.
"""
