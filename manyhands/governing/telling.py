"""What `status` and `peers` say of the models that a swarm stopped, flagged or has not released.

In: a home that has just looked at its swarm, and who serves what. Out: a judgement for each model,
by digest; none where nothing is demanded.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from manyhands.home import MEMBERSHIP, Home

if TYPE_CHECKING:
    from protocol.announcements import Announcement
    from protocol.membership.governance import Judgement


def judged(home: Home, serving: "Iterable[Announcement]") -> "Mapping[bytes, Judgement]":
    if not (home.root / MEMBERSHIP).exists():
        return {}
    from manyhands.membership import load_state
    from protocol.clock import wall_ms

    governance, now_ms = load_state(home).governance, wall_ms()
    names: dict[bytes, set[str]] = {}
    for peer in serving:
        names.setdefault(peer.manifest, set()).add(peer.model)
    return {
        manifest: governance.judge(manifest, "", now_ms, also=called)
        for manifest, called in names.items()
    }


def words(judgement: "Judgement | None") -> list[str]:
    """What is not well, worst first."""
    if judgement is None:
        return []
    refused = [f"not to be served: {judgement.refused}"] if judgement.refused else []
    return [*refused, *map(str, judgement.flags)]
