"""The link lab: real nodes over links of any length, steadiness, loss and width, on one machine.

`python -m benchmarks.linklab SCENARIO…` runs scenario files (`scenarios/`). Other benchmarks take
`LabSwarm` from `swarm.py` and `Way` from `ways.py`.
"""
