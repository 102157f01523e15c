"""The witnesses of a swarm, asked all at once: who has a quorum waits for nobody else.

In: our spend log, and a way to each witness, over gRPC or HTTP. Out: its latest checkpoint with
enough cosignatures, or who did not answer and why. What to send and what an answer means is
`ledger.witness_asking`'s. It is the `Cosigners` of `scheduler.purse`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from ledger.cosigning import Cosigned, Witnesses
from ledger.errors import DamagedLedger
from ledger.notes import NoteSignature
from ledger.spend_log import SpendLog
from ledger.witness_asking import Asking
from ledger.witness_http import Answer
from protocol.errors import ManyhandsError, NoQuorum

ANSWER_S = 10.0
MAX_ROUNDS = 4  # of a log that others of this home write to meanwhile
TELL = "the founder tells, manyhands swarm witness {} PEER"

Ask = Callable[[bytes], Awaitable[Answer]]
"""Send a request of tlog-witness to one witness."""


class Panel:
    """See the module. Remembers how far each witness signed."""

    def __init__(self, witnesses: Witnesses, asks: Mapping[str, Ask]) -> None:
        """asks: by the witness's name; one that is missing cannot be found."""
        self.witnesses, self._asks = witnesses, dict(asks)
        self._signed: dict[str, int] = {}

    async def check(self, log: SpendLog) -> None:
        """See that a quorum knows no more of our log than we do. Ask before the first append.

        Raises:
            DamagedLedger: one of them does: a copy was put back, and must not sign.
            NoQuorum: who did not answer.
        """

        async def greet(name: str, ask: Ask) -> None:
            asking = Asking(log)
            answer = await ask(await asyncio.to_thread(asking.greeting))
            await asyncio.to_thread(asking.greeted, answer)
            self._signed[name] = asking.signed or await asyncio.to_thread(len, log)

        def is_enough(answered: Mapping[str, None]) -> bool:
            return len(answered) >= self.witnesses.quorum_k

        await self._ask_all(greet, is_enough)

    async def cosign(self, log: SpendLog) -> Cosigned:
        """Have the latest checkpoint signed by a quorum.

        Raises:
            DamagedLedger: one of them signed what we do not know.
            NoQuorum: who did not answer; what signed is kept, and need not be asked again.
        """
        for _ in range(MAX_ROUNDS):
            size = await asyncio.to_thread(len, log)
            try:
                return await self._cosign(log)
            except NoQuorum as error:
                failure = error
                if await asyncio.to_thread(len, log) == size:
                    break  # else another process wrote to it, and some signed what it was before
        raise failure

    async def _cosign(self, log: SpendLog) -> Cosigned:
        found: list[Cosigned] = []

        async def sign(name: str, ask: Ask) -> None:
            asking = Asking(log, self._signed.get(name, 0))
            lines: tuple[NoteSignature, ...] | None = None
            while lines is None:
                request = await asyncio.to_thread(asking.request)
                lines = await asyncio.to_thread(asking.answered, await ask(request))
            cosigned = await asyncio.to_thread(log.add_cosignatures, lines, self.witnesses)
            self._signed[name] = cosigned.head.size
            found.append(cosigned)

        def is_enough(answered: Mapping[str, None]) -> bool:
            return bool(found) and found[-1].has_quorum

        await self._ask_all(sign, is_enough)
        return found[-1]

    async def _ask_all(
        self,
        asked: Callable[[str, Ask], Awaitable[None]],
        is_enough: Callable[[Mapping[str, None]], bool],
    ) -> None:
        """Until enough answered; the others are let go.

        One that says it knows more of our log is believed once more say so than may lie.
        """

        async def one(name: str) -> None:
            if (ask := self._asks.get(name)) is None:
                raise NoQuorum(f"nobody knows where it is: {TELL.format(name)}")
            async with asyncio.timeout(ANSWER_S):
                await asked(name, ask)

        names = [witness.name for witness in self.witnesses.known]
        running = {asyncio.create_task(one(name)): name for name in names}
        answered, failed = dict[str, None](), dict[str, str]()
        ahead: list[DamagedLedger] = []
        n_may_lie = len(names) - self.witnesses.quorum_k
        try:
            while running and not is_enough(answered):
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    name = running.pop(task)
                    try:
                        task.result()
                        answered[name] = None
                    except DamagedLedger as error:
                        failed[name] = str(error)
                        ahead.append(error)
                        if len(ahead) > n_may_lie:
                            raise
                    except TimeoutError:
                        failed[name] = f"it did not answer within {ANSWER_S:g} s"
                    except ManyhandsError as error:
                        failed[name] = str(error)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if not is_enough(answered):
            raise self._too_few(answered, failed)

    def _too_few(self, answered: Mapping[str, None], failed: Mapping[str, str]) -> NoQuorum:
        said = "; ".join(f"{name}: {why}" for name, why in failed.items())
        n, k = len(answered), self.witnesses.quorum_k
        return NoQuorum(
            f"{n} of the {k} witnesses that must sign did ({said})",
            tuple(failed),
            hint="try again when they answer: manyhands ledger sync",
        )
