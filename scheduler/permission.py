"""Whether a client may use a model, by what its swarm says of it, before an answer and during one.

In: a membership, the channel that a person chose, what they accepted, what is announced. Out: for
each session a check that the route finder makes, and the end of those whose model was stopped
meanwhile. A swarm without members permits everything.
"""

from collections.abc import Callable
from weakref import WeakSet

from protocol.chain_hops import Phase
from protocol.errors import NotPermitted
from protocol.membership.advisories import Advisory
from protocol.membership.gate import Membership
from protocol.membership.governance import Judgement
from protocol.membership.rules import Channel, Rules
from scheduler.directory import Directory
from scheduler.session import Session

Terms = Callable[[Rules, bytes], None]  # raises NotAccepted, of a model by digest
RUNS = (Phase.AGREEING, Phase.RUNNING)  # else the route finder asks before it goes on


class Permission:
    """One client's."""

    def __init__(
        self,
        membership: Membership | None,
        channel: Channel,
        directory: Directory,
        terms: Terms | None = None,
    ) -> None:
        """terms: what a person has to accept before a model is used."""
        self._membership, self._directory, self._terms = membership, directory, terms
        self._channels = channel.and_safer
        self._sessions: WeakSet[Session] = WeakSet()
        self._told: set[Advisory] = set()
        if membership is not None:
            membership.watch(self._judge_again)

    def judge(self, manifest: bytes, model: str = "") -> Judgement:
        """Of a model, by what it or its hosts call it."""
        if self._membership is None:
            return Judgement()
        names = {host.model for host in self._directory.hosts(manifest)} | {model}
        return self._membership.judge(manifest, channels=self._channels, also=names)

    def of(self, manifest: bytes, model: str) -> Callable[[], None]:
        """See `scheduler.finder`."""

        def permit() -> None:
            self.judge(manifest, model).require(model or manifest.hex()[:16])
            if self._terms is not None and self._membership is not None:
                self._terms(self._membership.state.governance.rules, manifest)

        return permit

    def news(self, manifest: bytes, model: str) -> list[Advisory]:
        """Warnings of it that were not asked for before."""
        flags = self.judge(manifest, model).flags
        fresh = [flag for flag in flags if flag not in self._told]
        self._told.update(fresh)
        return fresh

    def watch(self, session: Session) -> None:
        """End it when its model is stopped."""
        self._sessions.add(session)

    def _judge_again(self) -> None:
        for session in list(self._sessions):
            request = session.request
            judged = self.judge(request.manifest, request.model)
            if judged.refused and session.rules.phase in RUNS:
                reason = f"{request.model or 'this model'}: {judged.refused}"
                session.cancel(NotPermitted("", reason, hint=judged.hint))
