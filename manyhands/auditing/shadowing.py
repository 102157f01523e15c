"""An answer that its own caller wants looked at: windows of it are run again elsewhere.

In: an answer, with its caller's leave to show its hidden rows to other peers. Out: what was found,
on stderr and in the home; the answer itself stands. How many windows: by what is known of each hop.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from ledger.findings import Findings
from manyhands.auditing.desk import Desk, summary
from manyhands.home import Home
from manyhands.models import Model
from manyhands.progress import say
from protocol.errors import ManyhandsError
from scheduler.wanted import Limits

if TYPE_CHECKING:
    from scheduler.client import Client, Generation
    from scheduler.request import GenerationRequest, GenerationResult


def among(request: "GenerationRequest") -> Limits:
    """Who may see hidden rows of a request that was no canary: others than its hops, within its own
    limits."""
    return replace(request.limits, require=())


async def look_again(
    home: Home,
    model: Model,
    client: "Client",
    request: "GenerationRequest",
    generation: "Generation",
    result: "GenerationResult",
) -> None:
    """Never raises for what others do: the answer is there."""
    try:
        with Findings.open(home.client, client.swarm_id) as findings:
            desk = Desk(client, model, findings, calibrations=home.calibrations, say=say)
            audit = await desk.look(request, generation, result, among(request))
    except ManyhandsError as error:
        say(f"audit: not done: {error}")
        return
    say(f"audit: {summary(audit)}")
    for note in audit.notes:
        say(f"audit: {note}")
