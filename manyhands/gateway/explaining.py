"""Which chain an answer would get now, and why that one, for those who ask in JSON.

In: a model, how many tokens, who may serve. Out: what `manyhands route explain --json` prints.
Nothing is opened or reserved.
"""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from manyhands.gateway.asked import Asked, Extension
from manyhands.gateway.catalogue import DEFAULT, Served
from manyhands.gateway.faults import ApiError
from manyhands.gateway.grants import ANYBODY, Caller
from manyhands.gateway.policy import Policy
from manyhands.gateway.residency import limits_of
from manyhands.route import explained_by, view_of
from protocol.errors import ManyhandsError
from protocol.profile import Profile
from scheduler.wanted import Goal, Wanted

if TYPE_CHECKING:
    from scheduler.client import Client

NO_POLICY = Policy()


class RouteAsked(Asked):
    """tokens: room for so many, prompt and answer."""

    model: Annotated[str, Field(min_length=1, max_length=512)] = DEFAULT
    tokens: Annotated[int, Field(ge=1, lt=2**31)] = 1024
    manyhands: Extension | None = None


async def explain(
    client: "Client",
    served: Served,
    asked: RouteAsked,
    caller: Caller = ANYBODY,
    policy: Policy = NO_POLICY,
) -> dict[str, Any]:
    """
    Raises:
        ApiError: who may serve makes no sense.
        ManyhandsError: the swarm cannot be asked, or keeps the model from being used.
    """
    more, manifest = asked.manyhands or Extension(), served.model.manifest
    try:
        wanted = Wanted(
            manifest=manifest.digest,
            n_blocks=manifest.n_blocks,
            n_positions=asked.tokens,
            n_prompt=asked.tokens // 2,
            hidden_size=manifest.hidden_size,
            profile=str(Profile.parse(more.profile)) if more.profile else None,
            adapter=served.adapter,
            limits=limits_of(more, caller, policy),
            goal=Goal(more.prefer),
        )
    except ManyhandsError as error:
        raise ApiError("invalid_value", str(error), param="manyhands") from error
    return view_of(await explained_by(client, wanted, served.model.asked), wanted, served.id)
