"""Where an audit has all it needs: a client, the model's ends, who runs things again, and findings.

In: generations that are over. Out: what was found of each, kept in this home. Loading what an
execution profile needs takes seconds, and is done once, whoever asks and within whatever limits.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ledger.findings import Findings
from ledger.reputation import Standing
from ledger.verdicts import MATCH
from manyhands.auditing.auditor import Audit, Auditor
from manyhands.auditing.ends import Ends
from manyhands.auditing.inputs import RowsSent
from manyhands.auditing.own_engine import OwnEngine, Waiting
from manyhands.auditing.references import OtherPeers, Reference, ThisMachine
from manyhands.auditing.telling import Session, profile_of
from manyhands.auditing.tolerance import tolerance
from manyhands.models import Model
from protocol.errors import UsageError
from protocol.profile import Profile
from protocol.wire import wire_format
from scheduler.wanted import ANY_PEER, Limits

if TYPE_CHECKING:
    from scheduler.client import Client, Generation
    from scheduler.request import GenerationRequest, GenerationResult

REFERENCES = ("auto", "own", "peers")


@dataclass(slots=True)
class Desk:
    """Of one model. rate_ppm None: by what is known of each account. say: for people. waiting:
    entered while other answers have this machine's thread."""

    client: "Client"
    model: Model
    findings: Findings
    references: str = "auto"
    rate_ppm: int | None = None
    thresholds: Path | None = None
    calibrations: Path | None = None  # of this home
    say: Callable[[str], None] = lambda line: None
    waiting: Waiting = nullcontext
    _ends: dict[str, Ends] = field(default_factory=dict)
    _own: dict[str, OwnEngine] = field(default_factory=dict)  # by profile; each loads the weights
    _loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def beside(self, findings: Findings, rate_ppm: int | None, waiting: Waiting) -> Self:
        """One that has what this one has loaded, to look at another answer meanwhile."""
        return replace(self, findings=findings, rate_ppm=rate_ppm, waiting=waiting)

    async def look(
        self,
        request: "GenerationRequest",
        generation: "Generation",
        result: "GenerationResult",
        limits: Limits = ANY_PEER,
    ) -> Audit:
        """Look at this answer's work, and keep what is found. limits: of who may run it again, and
        sees hidden rows of it.

        Raises:
            UsageError: nothing of it can be run again here.
        """
        held = generation.commitments
        hops = tuple(held[step.peer] for step in result.route if step.peer in held)
        session = Session(
            manifest=request.manifest,
            ids=(*request.prompt_ids, *result.token_ids),
            n_prompt=len(request.prompt_ids),
            capacity=request.capacity,
            hops=hops,
            # A grammar's bars, and what holds an answer's end back, are not made again here.
            sampling=None if request.grammar or request.min_tokens else request.sampling,
            was_mended=bool(result.failovers or result.handovers),
            was_drafted=bool(request.most_drafts),
        )
        if not hops or session.n_rows < 1:
            return Audit()
        if request.adapter:
            raise UsageError("answers with an adapter cannot be audited", hint="leave it out")
        swarm_id = self.client.swarm_id
        profile = Profile.parse(profile_of(hops[0], swarm_id))
        auditor = await self._auditor(hops[0].terms.manifest, profile, limits)
        audit = await auditor.look(session)
        self.findings.note(audit.looks)
        for link in audit.links:
            self.client.records.note_disputed(*link, time.time())
        told = [fault.seal(swarm_id, self.client.identity.key) for fault in audit.faults]
        for fault in told:
            self.findings.add(fault, trusted=fault.signers)
        if told:
            await self.client.exchange_faults(self.findings, told)
        return audit

    async def _auditor(self, manifest: bytes, profile: Profile, limits: Limits) -> Auditor:
        ends = await self._ends_in(profile.dtype)
        allowed = tolerance(manifest, profile, self.thresholds, self.calibrations)
        if (name := str(profile)) not in self._own:
            self._own[name] = OwnEngine(self.model, profile)
            self.say(f"{profile}, by {allowed.source}")
            if not allowed.is_measured:
                self.say(f"to find faults: {_calibrating(self.model, profile)}")
        now_s = time.time()
        return Auditor(
            self.client.identity.key,
            self.client.swarm_id,
            ends,
            self._sources(profile, ends, limits),
            allowed,
            self.client.open_windows,
            RowsSent(self.client.sent_rows, wire_format(profile.wire), ends.hidden_size),
            rate_ppm=self.rate_ppm,
            policy_ppm=self.client.policy.audit_ppm,
            standings=self._standings(profile, now_s),
            suspects=frozenset(self.findings.suspects(now_s)),
        )

    async def _ends_in(self, dtype: str) -> Ends:
        async with self._loading:
            if dtype not in self._ends:
                self._ends[dtype] = await asyncio.to_thread(Ends, self.model, dtype)
        return self._ends[dtype]

    def _sources(self, profile: Profile, ends: Ends, limits: Limits) -> list[Reference]:
        """Who is asked, in order. This machine first: it costs nobody anything, and lies least."""
        others = OtherPeers(self.client, self.model, ends, profile, limits)
        own = ThisMachine(self._own[str(profile)], self.waiting)
        has_own = self.model.store is None and self.references != "peers"
        if self.references == "own":
            return [own]
        return [*([own] if has_own else []), others, others]

    def _standings(self, profile: Profile, now_s: float) -> dict[bytes, Standing]:
        digest, name = self.model.manifest.digest, str(profile)
        return {
            account: standing
            for (account, manifest, ran), standing in self.findings.standings(now_s).items()
            if (manifest, ran) == (digest, name)
        }


def _calibrating(model: Model, profile: Profile) -> str:
    """The command that measures thresholds for this way of running it."""
    flags = f"--dtype {profile.dtype} --quantize {profile.quantization} --wire {profile.wire}"
    return f"manyhands ledger calibrate {model.asked} {flags}"


def summary(audit: Audit) -> str:
    """In words: what was looked at, and what was found."""
    good = sum(look.result == MATCH for look in audit.looks)
    if not audit.looks:
        return "nothing was looked at"
    bad = len(audit.looks) - good
    windows = "1 window" if len(audit.looks) == 1 else f"{len(audit.looks)} windows"
    return f"{windows} looked at, {good} as they should be, {bad} not"
