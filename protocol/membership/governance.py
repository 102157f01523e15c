"""What a swarm says of models, as one member knows it, and what follows for one of them.

In: rules, releases and advisories as envelopes, in any order. Out: one state, the same for all who
have heard the same, and a judgement about a manifest: whether it may be served or used, and if not,
why and what mends that. A swarm without rules judges nothing. `now_ms` is an argument.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from protocol.errors import NotPermitted
from protocol.membership import advisories, releases, rules
from protocol.membership.advisories import Advisory, Severity
from protocol.membership.gathering import Gathering
from protocol.membership.releases import Release
from protocol.membership.rules import NO_RULES, Channel, Quorum, Rules
from protocol.signing import Envelope

TYPES = frozenset({rules.TYPE, releases.TYPE, advisories.TYPE})
MAX_RELEASES, MAX_ADVISORIES = 256, 64


@dataclass(frozen=True, slots=True)
class Judgement:
    """refused: why it may not be served or used; empty: it may. flags: what to say of it."""

    refused: str = ""
    hint: str = ""
    flags: tuple[Advisory, ...] = ()

    def require(self, model: str) -> None:
        """
        Raises:
            NotPermitted: the swarm does not let it be served or used.
        """
        if self.refused:
            hint = self.hint.replace("MODEL", model)
            raise NotPermitted("", f"{model}: {self.refused}", hint=hint)


class Governance:
    """One member's."""

    def __init__(self, swarm: str, swarm_id: bytes, founders: tuple[bytes, ...]) -> None:
        self.rules: Rules = NO_RULES
        self._swarm, self._swarm_id, self._founders = swarm, swarm_id, founders
        self._rules: Envelope | None = None
        self.releases: Gathering[Release] = Gathering(
            releases.TYPE, swarm_id, Release.read, self._releasers, max_standing=MAX_RELEASES
        )
        self.advisories: Gathering[Advisory] = Gathering(
            advisories.TYPE, swarm_id, Advisory.read, self._warners, max_standing=MAX_ADVISORIES
        )

    def _releasers(self, release: Release) -> Quorum | None:
        return self.rules.quorum_for(release.model, release.channel)

    def _warners(self, advisory: Advisory) -> Quorum | None:
        return self.rules.advisories

    # --- what is known ----------------------------------------------------------------------------

    def envelopes(self) -> Iterator[Envelope]:
        """All of it, so that who takes it in order understands it."""
        if self._rules is not None:
            yield self._rules
        for gathering in (self.releases, self.advisories):
            yield from (gathered.envelope for gathered in gathering)

    def learn(self, envelope: Envelope) -> bool:
        """Take in one of `TYPES`; whether it was news.

        Raises:
            IntegrityError: it is none, or not made by who may.
        """
        if envelope.type == releases.TYPE:
            return self.releases.learn(envelope)
        if envelope.type == advisories.TYPE:
            return self.advisories.learn(envelope)
        return self._replace(envelope)

    def _replace(self, envelope: Envelope) -> bool:
        held = self._rules
        if envelope == held:
            return False
        update = rules.open_rules(envelope, self._founders, self._swarm_id)
        ours = (self.rules.sequence, held.payload, held.encode()) if held else (-1, b"", b"")
        if (update.sequence, envelope.payload, envelope.encode()) <= ours:
            return False
        self.rules, self._rules = update, envelope
        self.releases.judge_again()
        self.advisories.judge_again()
        return True

    @property
    def is_strict(self) -> bool:
        """Whether anything is demanded of models at all."""
        return self._rules is not None

    # --- what follows -----------------------------------------------------------------------------

    def judge(
        self,
        manifest: bytes,
        model: str,
        now_ms: int,
        channels: Sequence[Channel] | None = None,
        *,
        also: Collection[str] = (),
    ) -> Judgement:
        """Whether this revision may be served or used under this name.

        Args:
            model: what peers call it; empty: under any name.
            channels: that will do; None: those that nodes serve.
            also: what else it is called, for advisories that are about names.
        """
        names = {model, *also} - {""}
        about = [
            gathered.record
            for gathered in self.advisories.standing()
            if gathered.record.is_about(manifest, names) and gathered.record.holds(now_ms)
        ]
        flags = tuple(advisory for advisory in about if advisory.severity is Severity.FLAG)
        stops = [advisory for advisory in about if advisory.severity is Severity.STOP]
        if stops:
            hint = f"use another revision; manyhands models advisories --swarm {self._swarm}"
            return Judgement(f"{stops[-1]}", hint, flags)
        refused, hint = self._unreleased(manifest, model, now_ms, channels)
        return Judgement(refused, hint, flags)

    def _unreleased(
        self, manifest: bytes, model: str, now_ms: int, channels: Sequence[Channel] | None
    ) -> tuple[str, str]:
        """Why, and what mends it; nothing where it is released, or need not be."""
        wanted = self.rules.serves if channels is None else channels
        if not self.rules.releases:
            return "", ""
        known = [one for one in self.releases if one.record.manifest == manifest]
        named = [one for one in known if model in ("", one.record.model)]
        out = {one.record.channel for one in named if one.stands and one.record.holds(now_ms)}
        if out & {*wanted}:
            return "", ""
        into = wanted[-1] if wanted else Channel.STABLE
        why = f"swarm {self._swarm} has not released it in channel {into}"
        fix = f"manyhands models release MODEL --channel {into}"
        waiting = [one for one in named if not one.stands and one.record.channel in wanted]
        if waiting:
            why += f": {len(waiting[-1].envelope.signers)} of {waiting[-1].needs} signatures"
        elif out:
            why += f", but in {' and '.join(sorted(out))}"
            fix = f"manyhands models promote MODEL --from {min(out)} --to {into}"
        elif not named and any(one.stands for one in known):
            names = ", ".join(sorted({one.record.model for one in known if one.stands}))
            return f"it is released as {names}, not as {model}", f"call it that: --name {names}"
        return why, f"{fix} --swarm {self._swarm}"

    def released(self, now_ms: int, channels: Collection[Channel]) -> tuple[Release, ...]:
        """What may be served or used now, the latest last."""
        return tuple(
            one.record
            for one in self.releases.standing()
            if one.record.channel in channels and one.record.holds(now_ms)
        )
