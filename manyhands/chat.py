"""`manyhands chat`: a conversation in the terminal, or line by line through a pipe.

In: lines. Out: answers as they stream. Each turn is one generation over the whole conversation so
far; when that no longer fits the model's context, the oldest turns are forgotten, and it says so.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manyhands.asking import Ask, open_client
from manyhands.generate import stream
from manyhands.governing.gate import terms_for
from manyhands.home import Home
from manyhands.loops import new_runner
from manyhands.models import TINY, Model
from manyhands.options import (
    accept_licence_option,
    channel_option,
    drafter_option,
    home_option,
    join_option,
    limits_options,
    tunnels_option,
    wait_option,
)
from manyhands.progress import say
from manyhands.running import join_addresses
from manyhands.thin import find_client_model
from protocol.address import Address
from protocol.errors import ManyhandsError

if TYPE_CHECKING:
    from protocol.text import Tokenizer
    from scheduler.client import Client
    from scheduler.request import Event, GenerationRequest

QUIT = ("/quit", "/exit")
ROOM_FOR_ANSWER = 32  # tokens that a conversation must leave free
PRIVACY = "Peers that serve the first and last blocks can read what you write."


@click.command(short_help="Talk with a model.")
@click.argument("model", metavar="[MODEL]", default=TINY)
@join_option
@click.option("--max-tokens", type=int, metavar="N", help="Of each answer. Default: 256.")
@click.option("--temperature", type=float, metavar="T", help="Default: the model's, else 0.")
@click.option("--seed", type=int, metavar="S", help="Default: drawn anew for each answer.")
@click.option("--profile", metavar="P", help="Ask for one execution profile. Default: any.")
@limits_options
@click.option("--forget", is_flag=True, help="Peers keep nothing; each turn runs all of it again.")
@click.option("--no-spares", is_flag=True, help="No other peer holds a copy while it runs.")
@drafter_option
@wait_option
@tunnels_option
@channel_option
@accept_licence_option
@home_option
def chat(
    model: str,
    join: tuple[Address, ...],
    home: Path | None,
    accept_licence: bool,
    tunnels: bool,
    **choices: Any,
) -> None:
    """Talk with MODEL. Ctrl-C stops an answer; /quit or Ctrl-D ends."""
    from protocol.text import Tokenizer

    ask = Ask(**choices)
    place = Home.at(home)
    found = find_client_model(model, place, join, ask.channel, tunnels=tunnels)
    terms = terms_for(place, found.manifest, accepts=accept_licence)
    tokenizer = Tokenizer.from_directory(found.directory)
    addresses = join_addresses(place, join)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        say(f"{found.name}. {PRIVACY} Ctrl-C stops an answer, /quit ends.")
    with new_runner() as runner:
        stack = AsyncExitStack()
        opening = open_client(place, addresses, ask.channel, terms, tunnels=tunnels)
        client = runner.run(stack.enter_async_context(opening))
        try:
            _converse(runner, client, place, Conversation(found, tokenizer, ask), is_terminal)
        finally:
            runner.run(stack.aclose())


class Conversation:
    """The turns so far, and how they become a prompt."""

    def __init__(self, model: Model, tokenizer: "Tokenizer", ask: Ask) -> None:
        self._model, self._tokenizer, self._ask = model, tokenizer, ask
        self._turns: list[dict[str, str]] = []

    def asked(self, text: str) -> "GenerationRequest":
        """The request that answers `text`.

        Raises:
            ContextExceeded: `text` alone is too long.
        """
        self._turns.append({"role": "user", "content": text})
        room = self._model.manifest.max_positions - (self._ask.max_tokens or ROOM_FOR_ANSWER)
        while len(ids := self._tokenizer.encode_chat(self._turns)) > room and len(self._turns) > 2:
            say("(this no longer fits the model's context: forgetting the oldest turn)")
            del self._turns[:2]
        return self._ask.request(self._model, ids, self._tokenizer)

    def answered(self, text: str) -> None:
        self._turns.append({"role": "assistant", "content": text})

    def failed(self) -> None:
        """Forget the question that got no answer."""
        del self._turns[-1:]


def _converse(
    runner: asyncio.Runner,
    client: "Client",
    home: Home,
    conversation: Conversation,
    is_terminal: bool,
) -> None:
    for line in _lines(is_terminal):
        said: list[str] = []

        def show(event: "Event", said: list[str] = said) -> None:
            from scheduler.request import Token

            if isinstance(event, Token):
                said.append(event.text)
                click.echo(event.text, nl=False)

        try:
            request = conversation.asked(line)
            runner.run(stream(client, request, show, home))
        except KeyboardInterrupt:
            click.echo(" …", nl=False)
        except ManyhandsError as error:
            if not is_terminal:
                raise
            click.echo(f"{error}\n{error.hint}".strip(), err=True)
        click.echo()
        if said:
            conversation.answered("".join(said))
        else:
            conversation.failed()


def _lines(is_terminal: bool) -> Iterator[str]:
    """What the person says, until they leave."""
    if is_terminal:
        with suppress(ImportError):  # Windows' own console keeps a history
            import readline  # noqa: F401 (gives input() a history)
    while True:
        try:
            line = input("> ") if is_terminal else sys.stdin.readline()
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo()
            continue
        if (not line and not is_terminal) or line.strip() in QUIT:
            return
        if line.strip():
            yield line.rstrip("\n")
