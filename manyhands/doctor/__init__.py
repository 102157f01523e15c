"""`manyhands doctor`: what is wrong with this machine as a node or client, and what mends it.

A file for each family of checks (`system`, `hardware`, `keeping`, `network`, `ways`, `others`,
`answering`, `trial`), which `registry.py` lists; `finding.py` for what a check says, `case.py` for
what is looked at, and `examining.py`, which runs the checks side by side. `docs/doctor.md` explains
every id.
"""
