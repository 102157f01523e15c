"""The page that shows a swarm.

`watch.py`, `overview.py` and `traffic.py` know what it tells, `routes.py` tells it, and `static/`
is the page itself: plain modules without a build step.
"""
