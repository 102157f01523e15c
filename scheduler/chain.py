"""Control streams to hops: dial, open, hear, and come back when a stream was lost.

In: whom to talk to and what to say. Out: what the hop says, and word when it is lost for good.
Streams are not sessions (DESIGN 5a.2): a lost one is opened again at once if the hop still lives;
if it does not answer within RESUME_S, routing around it is quicker than waiting.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol
from weakref import WeakKeyDictionary, ref

from protocol.announcements import Announcement
from protocol.asking import ANY_DRAFTER, MODEL_DRAFTER
from protocol.codec import to_client_message, to_hop_bytes
from protocol.errors import ManyhandsError, PeerUnreachable, VersionMismatch
from protocol.identity import PeerId
from protocol.messages import Closed, Reserve, Resume, ToClient, ToHop
from protocol.path import Path
from protocol.transport import Connection, Stream, Transport
from protocol.transport.greeting import (
    CONSTRAINTS,
    DRAFTS,
    DRAWS,
    GRAMMARS,
    MODEL_DRAFTS,
    READINGS,
)
from protocol.transport.paths import LOOK_S, SOON_S, paths_of
from scheduler.request import GenerationRequest

log = logging.getLogger(__name__)

DIAL_S = 3.0
RESUME_S = 1.0
MAX_LEFT = 16
IDLE_S = 300.0  # after which listeners close a connection on which nothing runs; so do we


@dataclass(slots=True)
class _Due:
    """The next look for a better way, and the wait that led to it."""

    at_s: float
    wait_s: float


class Owner(Protocol):
    """Who holds a stream, and is asked before it is taken away for a better way."""

    def may_move(self) -> bool:
        """Whether it goes on over another one at once. True: this one ends now."""


# Owners are held weakly: they hold sessions, whose errors hold frames, which hold streams.
_Held = WeakKeyDictionary[Stream, "ref[Owner] | None"]


class Connections:
    """One connection per peer, shared by all sessions of a client."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.paths = paths_of(transport)
        self._open: dict[str, Connection] = {}
        self._left: list[Connection] = []  # for a better way; calls on them go on
        self._due: dict[str, _Due] = {}
        self._used_at_s: dict[str, float] = {}
        self._streams: dict[str, _Held] = {}  # those that somebody holds
        self._behind: dict[str, _Held] = {}  # those on a connection that was left
        self._watching: dict[str, asyncio.Task[None]] = {}

    async def stream(
        self,
        peer: str,
        addresses: Sequence[str],
        *,
        method: str = "control",
        timeout_s: float = DIAL_S,
        owner: Owner | None = None,
    ) -> Stream:
        """A new stream to `peer`, over the connection at hand or a new one.

        Without an owner it may end at any time for a better way.

        Raises:
            PeerUnreachable, VersionMismatch: why there is none.
        """
        self._used_at_s[peer] = asyncio.get_running_loop().time()
        if (known := self._open.get(peer)) is not None:
            try:
                stream = await known.open(method, timeout_s=timeout_s)
                return self._opened(peer, addresses, stream, owner)
            except ManyhandsError:
                if self._open.get(peer) is known:  # else another stream has replaced it already
                    await self.forget(peer)
        connection = await self.to(peer, addresses, timeout_s=timeout_s)
        stream = await connection.open(method, timeout_s=timeout_s)
        return self._opened(peer, addresses, stream, owner)

    def _opened(
        self, peer: str, addresses: Sequence[str], stream: Stream, owner: Owner | None
    ) -> Stream:
        self._streams.setdefault(peer, _Held())[stream] = ref(owner) if owner else None
        if peer in self._open:
            self._look_for_better(peer, addresses)
        return stream

    async def to(
        self, peer: str, addresses: Sequence[str], *, timeout_s: float = DIAL_S
    ) -> Connection:
        """The connection at hand, or a new one.

        Raises:
            PeerUnreachable, VersionMismatch: why there is none.
        """
        self._used_at_s[peer] = asyncio.get_running_loop().time()
        if (known := self._open.get(peer)) is not None:
            return known
        await self._let_idle_go()
        connection = await self.paths.dial(PeerId(peer), addresses, timeout_s=timeout_s)
        if (kept := self._open.setdefault(peer, connection)) is not connection:
            await connection.aclose()  # dialled by another session meanwhile, or by this one
        return kept

    async def ping(
        self, peer: Announcement, *, timeout_s: float, anew: bool = False
    ) -> tuple[float, Path]:
        """Milliseconds to a peer and back, and the way there. anew: the connection at hand is
        taken for dead.

        Raises:
            PeerError: why it does not answer.
        """
        if anew:
            await self.forget(peer.peer_id)
        addresses = [str(address) for address in peer.addresses]
        connection = await self.to(peer.peer_id, addresses, timeout_s=timeout_s)
        began_s = asyncio.get_running_loop().time()
        await connection.call("ping", b"", timeout_s=timeout_s)
        return (asyncio.get_running_loop().time() - began_s) * 1000, connection.path

    def _look_for_better(self, peer: str, addresses: Sequence[str]) -> None:
        """In the background while streams run, sooner at first; the next one is opened there, and
        those move whose owners can go on there. To these they are lost, and back at once."""
        if (watching := self._watching.get(peer)) is not None and not watching.done():
            return
        task = asyncio.create_task(self._watch(peer, addresses), name=f"a better way to {peer}")
        self._watching[peer] = task

    async def _watch(self, peer: str, addresses: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        first = LOOK_S if self._open[peer].path is Path.DIRECT else SOON_S
        due = self._due.setdefault(peer, _Due(loop.time() + first, first))
        while (waiting := self._open.get(peer)) is not None:
            await self.paths.until_due(waiting, addresses, due.at_s - loop.time())
            known = self._open.get(peer)
            if known is None or not self._is_used(peer):
                return
            with suppress(ManyhandsError):  # it stays as it is
                if (better := await self.paths.upgraded(known, addresses)) is not None:
                    await self._move(peer, known, better)
                await self._fetch_on(peer)
            due.wait_s = SOON_S if self._behind.get(peer) else min(2 * due.wait_s, LOOK_S)
            due.at_s = loop.time() + due.wait_s

    async def _move(self, peer: str, known: Connection, better: Connection) -> None:
        if self._open.get(peer) is not known:  # it was replaced meanwhile
            await better.aclose()
            return
        self._open[peer] = better
        self._left.append(known)
        self._behind.setdefault(peer, _Held()).update(self._streams.pop(peer, {}))
        if len(self._left) > MAX_LEFT:
            await self._left.pop(0).aclose()

    async def _fetch_on(self, peer: str) -> None:
        """End those on a connection that was left, as soon as their owners can go on."""
        behind = self._behind.get(peer, _Held())
        moving = []
        for stream, known in tuple(behind.items()):
            owner = known() if known is not None else None
            if owner is None or owner.may_move():
                del behind[stream]
                moving.append(stream)
        await asyncio.gather(*(stream.aclose() for stream in moving))

    def _is_used(self, peer: str) -> bool:
        return bool(self._streams.get(peer) or self._behind.get(peer))

    def at_hand(self) -> dict[str, Connection]:
        """All that are open now, by peer. Who asks over one leaves it open."""
        return dict(self._open)

    def features(self, peer: str) -> frozenset[str]:
        """What the peer behind the connection at hand knows of what was added to the protocol."""
        known = self._open.get(peer)
        return known.features if known is not None else frozenset()

    async def _let_idle_go(self) -> None:
        """Peers come and go; who was asked once is not held on to for ever."""
        now_s = asyncio.get_running_loop().time()
        for peer, used_at_s in tuple(self._used_at_s.items()):
            if now_s - used_at_s < IDLE_S:
                continue
            if self._is_used(peer):
                self._used_at_s[peer] = now_s
            else:
                await self.forget(peer)

    async def forget(self, peer: str) -> None:
        for known in (self._used_at_s, self._streams, self._behind, self._due):
            known.pop(peer, None)
        if (watching := self._watching.pop(peer, None)) is not None:
            watching.cancel()
        if (connection := self._open.pop(peer, None)) is not None:
            await connection.aclose()

    async def aclose(self) -> None:
        watching = tuple(self._watching.values())
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await asyncio.gather(*(self.forget(peer) for peer in list(self._open)))
        await asyncio.gather(*(connection.aclose() for connection in self._left))
        await self.paths.aclose()


class ControlLink:
    """The control stream to one hop of one session, across its losses.

    heard: what the hop says. lost: it cannot be reached any more; called at most once.
    resume: what to say first on a new stream; None when it is not worth one.
    """

    def __init__(
        self,
        connections: Connections,
        peer: str,
        addresses: Sequence[str],
        reserve: Reserve,
        *,
        heard: Callable[["ControlLink", ToClient], None],
        lost: Callable[["ControlLink", ManyhandsError], None],
        resume: Callable[["ControlLink"], Resume | None],
    ) -> None:
        self.peer = peer
        self.closed = asyncio.Event()  # the hop has filed its receipt, or is gone
        self.is_resumed = False  # the stream at hand continues an earlier one
        self.features: frozenset[str] = frozenset()  # that the peer knows
        self._connections, self._addresses = connections, tuple(addresses)
        self._heard, self._lost, self._resume = heard, lost, resume
        self._stream: Stream | None = None
        self._moved: Resume | None = None  # what to say first where it was told to go on
        self._unsent: list[ToHop] = [reserve]
        self._task: asyncio.Task[None] | None = None

    def send(self, message: ToHop) -> None:
        """Say it now, or as soon as the stream stands."""
        if self._stream is None:
            self._unsent.append(message)
            return
        try:
            self._stream.send(to_hop_bytes(message))
        except PeerUnreachable:  # the listening side will notice
            self._unsent.append(message)

    def may_move(self) -> bool:
        """A hop that would not take us back stays where it is heard: one that has only reserved
        would be lost, one that closes could not say so."""
        self._moved = self._resume(self) if self._stream is not None else None
        return self._moved is not None

    def abandon(self) -> None:
        """Nothing more is expected of this hop: stop listening."""
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        """Until the hop has closed the session, or is lost."""
        self._task = asyncio.current_task()
        timeout_s: float = DIAL_S
        greeting: Resume | None = None
        try:
            while True:
                try:
                    return await self._listen(timeout_s, greeting)
                except PeerUnreachable as error:
                    log.info("control stream lost", extra={"peer": self.peer, "error": str(error)})
                    greeting = self._resume(self) if self._stream is not None else None
                    greeting = greeting or self._moved
                    if greeting is None:
                        raise
                    self._moved = None
                    self._stream, timeout_s, self.is_resumed = None, RESUME_S, True
        except ManyhandsError as error:
            self._lost(self, error)
        finally:
            self._stream = None
            self.closed.set()

    def _leave_out(self) -> None:
        """What the peer may do without, and does not know."""
        if DRAFTS not in self.features:
            self._unsent = [_undrafted(message) for message in self._unsent]

    def _check_features(self) -> None:
        """
        Raises:
            VersionMismatch: the peer would pass over what its client asks of it.
        """
        asked = [message for message in self._unsent if isinstance(message, Reserve)]
        needed = {name: hint for message in asked for name, hint in _needed(message).items()}
        if unknown := [name for name in needed if name not in self.features]:
            raise VersionMismatch(
                self.peer,
                f"it does not know {unknown[0]}",
                hint=f"update Manyhands there, or ask for no {needed[unknown[0]]}",
            )

    async def _listen(self, timeout_s: float, greeting: Resume | None) -> None:
        stream = await self._connections.stream(
            self.peer, self._addresses, timeout_s=timeout_s, owner=self
        )
        try:
            self.features = self._connections.features(self.peer)
            self._leave_out()
            self._check_features()
            unsent, self._unsent = self._unsent, []
            for message in [greeting, *unsent] if greeting else unsent:
                stream.send(to_hop_bytes(message))
            self._stream = stream
            while True:
                answer = to_client_message(await stream.receive())
                self._heard(self, answer)
                if isinstance(answer, Closed):
                    return
        finally:
            await stream.aclose()


async def until_closed(links: Sequence[ControlLink], timeout_s: float) -> None:
    """Until all of these hops have filed their receipts, or are gone."""
    waiting = [asyncio.create_task(link.closed.wait()) for link in links]
    if waiting:
        _, late = await asyncio.wait(waiting, timeout=timeout_s)
        for task in late:
            task.cancel()


def earns_guesses(request: GenerationRequest, link: ControlLink | None) -> bool:
    """Whether a model may guess there, which is paid for as far as earned.

    Of any drafter's guesses a hop that did not say it has a model earns none: they are those of
    `lookup`. Who was asked for a model has said it, or was refused.
    """
    if request.drafter != ANY_DRAFTER:
        return request.drafter == MODEL_DRAFTER
    return link is not None and MODEL_DRAFTS in link.features


def _undrafted(message: ToHop) -> ToHop:
    """Without a drafter, where any would do."""
    if not isinstance(message, Reserve) or message.extensions.drafter != ANY_DRAFTER:
        return message
    return replace(message, extensions=replace(message.extensions, drafter=""))


def _needed(reserve: Reserve) -> dict[str, str]:
    """Features that a hop must have for this, and what to leave out where it has not."""
    asked, sampling = reserve.extensions, reserve.sampling
    needed = {}
    if reserve.constraints:
        needed[CONSTRAINTS] = "region, group or peer"
    if not reserve.is_last:
        return needed
    ends = reserve.min_tokens or reserve.stop_token_ids
    if asked.logprobs or asked.logit_bias or sampling.min_p or sampling.choice or ends:
        needed[DRAWS] = "logprobs, bias, min_p, choice, min_tokens or stop ids"
    if asked.drafter:
        needed[DRAFTS] = "drafter, or for any: auto"
    if asked.drafter == MODEL_DRAFTER:
        needed[MODEL_DRAFTS] = "model that guesses, or for any drafter: auto"
    if asked.reads_prompt:
        needed[READINGS] = "vectors or log-probabilities of a prompt"
    if asked.grammar:
        needed[GRAMMARS] = "JSON, pattern or grammar"
    return needed
