"""Plain completions as OpenAI's clients read them, with their prompts where these are asked for.

In: what the swarm told of each choice. Out: choices, whole or in a stream. An answer that echoes
its prompt tells the odds of the prompt's ids before its own, one entry for each id and the first
without any, so that whoever counts tokens finds each at its place (lm-eval does).
"""

from collections.abc import Sequence

from manyhands.gateway.asked import CompletionAsked
from manyhands.gateway.catalogue import Served
from manyhands.gateway.likelihoods import Told, of_prompt, of_text
from manyhands.gateway.shapes import Json, Shape
from manyhands.gateway.spoken import FINISH
from protocol.logprobs import Logprobs
from scheduler.request import GenerationResult, PromptRead, Token


class Text(Shape):
    """Of `asked.n` choices for each prompt.

    echoes: what each prompt says, where choices begin with it.
    """

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(
        self,
        name: str,
        served: Served,
        asked: CompletionAsked,
        prompts: Sequence[Sequence[int]],
        echoes: Sequence[str] = (),
    ) -> None:
        super().__init__(name, served)
        self._asked, self._prompts, self._echoes = asked, prompts, echoes
        self._read: dict[int, Sequence[Logprobs]] = {}
        self._offsets: dict[int, int] = {}  # where each choice's next token begins

    def seen(self, result: GenerationResult) -> GenerationResult:
        return result.without_answer() if self._asked.wants_echo_alone else result

    def choice(self, index: int, result: GenerationResult) -> Json:
        if result.prompt_logprobs is not None:
            self._read[index] = result.prompt_logprobs
        likelihoods, own = self._of_echo(index), self._of_all(index, result)
        if likelihoods is not None and own is not None:
            likelihoods = {name: [*likelihoods[name], *own[name]] for name in own}
        choice = self._part(index, self._echo(index) + result.text, result.token_ids) | {
            "logprobs": likelihoods or own,
            "finish_reason": FINISH.get(result.finish_reason, "stop"),
        }
        if (n_top := self._asked.prompt_logprobs) is not None:
            read = of_prompt(self._tokenizer, self._ids(index), self._read[index], n_top)
            choice["prompt_logprobs"] = read
        return choice

    def likelihoods(self, index: int, told: Sequence[Told]) -> Json:
        offset = self._offsets.get(index, len(self._echo(index)))
        made = of_text(self._tokenizer, told, offset, keeps_all=bool(self._echoes))
        special = self._tokenizer.special_ids
        spoken = [self._tokenizer.spelled(id) for id, _ in told if id not in special]
        self._offsets[index] = offset + sum(len(each.decode(errors="replace")) for each in spoken)
        return made

    def read(self, index: int, read: PromptRead) -> None:
        self._read[index] = read.logprobs

    def first(self, index: int) -> Json | None:
        if not self._echoes:
            return None
        return self._part(index, self._echo(index)) | {"logprobs": self._of_echo(index)}

    def hear(self, index: int, token: Token) -> None:
        pass  # the whole text comes with the answer's end

    def deltas(self, index: int, token: Token) -> list[Json]:
        if self._asked.wants_echo_alone:
            return []
        likelihoods = self._told_of(index, token)
        if not token.text and likelihoods is None and not self._asked.return_token_ids:
            return []
        return [self._part(index, token.text, [token.token_id]) | {"logprobs": likelihoods}]

    def last(self, index: int, result: GenerationResult) -> list[Json]:
        reason = FINISH.get(result.finish_reason, "stop")
        return [self._part(index, "") | {"finish_reason": reason}]

    def _ids(self, index: int) -> Sequence[int]:
        return self._prompts[index // (self._asked.n or 1)]

    def _echo(self, index: int) -> str:
        return self._echoes[index // (self._asked.n or 1)] if self._echoes else ""

    def _of_echo(self, index: int) -> Json | None:
        n_top = self._asked.logprobs
        if not self._echoes or n_top is None or index not in self._read:
            return None
        told: list[Told] = [(self._ids(index)[0], None)]
        for id, each in zip(self._ids(index)[1:], self._read[index], strict=True):
            told.append((id, each.top(n_top)))
        return of_text(self._tokenizer, told, 0, keeps_all=True)

    def _part(self, index: int, text: str, ids: Sequence[int] = ()) -> Json:
        part: Json = {"index": index, "text": text, "logprobs": None, "finish_reason": None}
        return part | {"token_ids": list(ids)} if self._asked.return_token_ids else part
