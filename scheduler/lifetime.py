"""How likely a peer is to leave soon, by its age: who came just now goes soonest.

Sessions of peers in open swarms follow a Weibull distribution with a shape well below 1: Stutzbach
and Rejaie, "Understanding Churn in Peer-to-Peer Networks" (IMC 2006), found shapes of 0.34 to 0.59
and scales of 21 to 42 minutes for those who came for a download. With such a shape the chance to
leave within the next minutes falls with age, so that age is the one thing worth knowing. The shape
here lies between theirs; the scale is longer than theirs, since lending a machine is what our peers
come for. Nothing but the order of two peers depends much on either.
"""

from math import exp

SHAPE = 0.5
SCALE_S = 3600.0
SOON_S = 600.0  # the time a swarm needs to notice a hole and to load weights into it


def leaves_soon(age_s: float, within_s: float = SOON_S) -> float:
    """The probability that a peer of this age leaves within the given time."""
    hazard = _cumulated_hazard(max(0.0, age_s) + within_s) - _cumulated_hazard(max(0.0, age_s))
    return 1.0 - exp(-hazard)


def _cumulated_hazard(age_s: float) -> float:
    return float((age_s / SCALE_S) ** SHAPE)
