"""Programs of others against a gateway in front of a real swarm: `python -m tests.conformance`.

Each has an environment of its own, made from `requirements/`, and a program in `clients/`. They
need a package index, so they are no part of the suite; `docs/compatibility.md` is what they said.
"""
