"""`manyhands generate`: one completion, as text, as one JSON object, or as a line per event.

In: a prompt as text, token ids or standard input. Out: on stdout what was asked for and nothing
else; the seed and the speed go to stderr. The shapes are a contract: docs/cli.md.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manyhands.asking import Ask, open_client
from manyhands.boundary import innermost
from manyhands.costing.budget import within_budget
from manyhands.governing.gate import tell_flags, terms_for
from manyhands.grammar_options import NAMES, grammar_options, read_grammar
from manyhands.headings import headed
from manyhands.home import Home
from manyhands.loops import run
from manyhands.models import Model
from manyhands.options import (
    accept_licence_option,
    auditors_option,
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
from manyhands.signals import interruptible
from manyhands.thin import find_client_model
from protocol.address import Address
from protocol.errors import ManyhandsError, UsageError

if TYPE_CHECKING:
    from protocol.text import Tokenizer
    from scheduler.client import Client, Generation
    from scheduler.request import Event, GenerationRequest, GenerationResult

Show = Callable[["Event"], None]
Look = Callable[["Generation", "GenerationResult"], Awaitable[None]]


HEADINGS = {
    "What to ask": ("prompt", "prompt_ids", "max_tokens", "stops", "ignore_eos"),
    "How tokens are drawn": ("temperature", "top_p", "top_k", "min_p", "seed", "drafter"),
    "What the answer has to be": NAMES,
    "Where": ("join", "swarm", "home", "tunnels", "channel", "accept_licence"),
    "Who may serve": (
        *("prefer", "require", "avoid", "regions", "believe_regions", "groups", "no_relays"),
        *("max_price", "max_cost", "max_prepaid", "profile", "forget", "no_spares"),
        *("no_quarantine", "auditors", "audit"),
    ),
    "How long": ("timeout_s", "wait_s"),
    "What is printed": ("as_json", "as_jsonl", "logprobs"),
}


@click.command(cls=headed(HEADINGS), short_help="Ask a swarm for one completion.")
@click.argument("model", metavar="MODEL")
@click.option("--prompt", metavar="TEXT", help="The prompt. Default: standard input.")
@click.option("--prompt-ids", metavar="1,2,3", help="The prompt as token ids; none are added.")
@join_option
@click.option("--max-tokens", type=int, metavar="N", help="Default: 256, or what fits.")
@click.option("--temperature", type=float, metavar="T", help="Default: the model's, else 0.")
@click.option("--top-p", type=float, metavar="P", help="Default: the model's, else all.")
@click.option("--top-k", type=int, metavar="K", help="Default: the model's, else all.")
@click.option("--min-p", type=float, metavar="P", help="Drop what is less than P as likely.")
@click.option("--seed", type=int, metavar="S", help="Default: drawn, and printed.")
@grammar_options
@click.option("--stop", "stops", multiple=True, metavar="TEXT", help="End before this text.")
@click.option("--ignore-eos", is_flag=True, help="Go on where the model would end.")
@click.option("--profile", metavar="P", help="Ask for one execution profile. Default: any.")
@limits_options
@click.option("--forget", is_flag=True, help="Peers keep nothing to begin later prompts with.")
@click.option("--no-spares", is_flag=True, help="No other peer holds a copy while it runs.")
@drafter_option
@click.option("--no-quarantine", is_flag=True, help="Also use peers that were found at fault.")
@auditors_option
@click.option(
    "--audit",
    type=click.Choice(["none", "shadow"]),
    default="none",
    help="shadow: parts of the work are run again here or by other peers, and compared.",
)
@click.option("--timeout", "timeout_s", type=float, default=600.0, metavar="S", help="For all.")
@wait_option
@tunnels_option
@channel_option
@accept_licence_option
@home_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--jsonl", "as_jsonl", is_flag=True, help="Print a line of JSON per event.")
@click.option("--logprobs", type=int, metavar="N", help="With each token's, and the N likeliest.")
def generate(
    model: str,
    prompt: str | None,
    prompt_ids: str | None,
    join: tuple[Address, ...],
    home: Path | None,
    accept_licence: bool,
    tunnels: bool,
    no_quarantine: bool,
    auditors: tuple[str, ...],
    audit: str,
    as_json: bool,
    as_jsonl: bool,
    json_object: bool,
    json_schema: Path | None,
    regex: str | None,
    **choices: Any,
) -> None:
    """Complete a prompt with MODEL, on the swarm at --join or on the one that runs here."""
    try:
        if as_json and as_jsonl:
            raise UsageError("--json and --jsonl exclude each other")
        ask = Ask(**choices, grammar=read_grammar(json_object, json_schema, regex))
        if ask.logprobs is not None and not (as_json or as_jsonl):
            raise UsageError("--logprobs prints with --json or --jsonl", hint="add --json")
        read = read_prompt(prompt, prompt_ids)
        place = Home.at(home)
        found = find_client_model(model, place, join, ask.channel, tunnels=tunnels)
        tokenizer = _tokenizer(found, needed=isinstance(read, str))
        ids = tokenizer.encode(read) if tokenizer and isinstance(read, str) else read
        assert not isinstance(ids, str)
        request = ask.request(found, ids, tokenizer)
        addresses = join_addresses(place, join)
        terms = terms_for(place, found.manifest, accepts=accept_licence)
        opening = partial(
            open_client,
            place,
            addresses,
            ask.channel,
            terms,
            tunnels=tunnels,
            quarantine=not no_quarantine,
            auditors=auditors,
        )
        shadowed = found if audit == "shadow" else None
        run(_generate(opening, request, _shower(as_json, as_jsonl), place, shadowed))
    except Exception as error:
        if as_jsonl:
            cause = innermost(error)
            code = cause.code if isinstance(cause, ManyhandsError) else "unexpected"
            _print_line({"event": "error", "code": code, "message": str(cause)})
        raise


def read_prompt(text: str | None, ids: str | None) -> str | list[int]:
    """The prompt, from where the caller put it.

    Raises:
        UsageError: there is none, there are two, or it is not what it should be.
    """
    if text is not None and ids is not None:
        raise UsageError("--prompt and --prompt-ids exclude each other")
    if ids is not None:
        try:
            return [int(id) for id in ids.split(",")]
        except ValueError as error:
            hint = "write them as --prompt-ids 1,2,3"
            raise UsageError(f"not token ids: {ids[:60]!r}", hint=hint) from error
    if text is None:
        if sys.stdin.isatty():
            raise UsageError("there is no prompt", hint="--prompt TEXT, or pipe one in")
        try:
            text = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as error:
            raise _not_utf8(f"byte {error.start}") from error
    if any("\ud800" <= character <= "\udfff" for character in text):  # how argv keeps odd bytes
        raise _not_utf8("the command line")
    return text


def _not_utf8(where: str) -> UsageError:
    return UsageError(
        f"the prompt is not UTF-8 ({where})",
        hint="convert it first: iconv -t UTF-8, or give --prompt-ids",
    )


def _tokenizer(model: Model, *, needed: bool) -> "Tokenizer | None":
    """The model's tokenizer; a prompt of ids does without, when the model has none."""
    from protocol.text import Tokenizer

    if not needed and not (model.directory / "tokenizer.json").exists():
        return None
    return Tokenizer.from_directory(model.directory)


async def _generate(
    opening: "Callable[[], AbstractAsyncContextManager[Client]]",
    request: "GenerationRequest",
    show: Show,
    home: Home,
    shadowed: Model | None,
) -> "GenerationResult":
    """shadowed: the model, some of whose hops' work is run again."""
    async with opening() as client:
        if shadowed is None:
            return await stream(client, request, show, home, interrupt=True)
        from manyhands.auditing.shadowing import look_again

        look = partial(look_again, home, shadowed, client, request)
        return await stream(client, request, show, home, interrupt=True, look=look)


async def stream(
    client: "Client",
    request: "GenerationRequest",
    show: Show,
    home: Home | None = None,
    *,
    interrupt: bool = False,
    look: Look | None = None,
) -> "GenerationResult":
    """One generation to its end, within the budget of a home. With `interrupt`, a signal cancels
    it, and it still settles. `look` is shown it then.

    Where the caller chose how long to wait for peers, it is told what is waited for.
    """
    from scheduler.request import WAIT_S, Finished, Waiting

    result: GenerationResult | None = None
    tell_flags(client, request)
    cancelling: list[asyncio.Task[None]] = []

    def cancel() -> None:
        cancelling.append(asyncio.create_task(generation.cancel()))

    async def iterate() -> None:
        nonlocal result
        async with generation:
            async for event in generation:
                show(event)
                if isinstance(event, Waiting) and request.wait_s != WAIT_S:
                    say(f"waiting: {event.reason}")
                if isinstance(event, Finished):
                    result = event.result

    async with within_budget(home, client, request) as bound:
        generation = bound.generation = client.generate(bound.request)
        with interruptible(cancel) if interrupt else nullcontext():
            await iterate()
    tell_flags(client, request)
    assert result is not None, "a generation ends with a result or an error"
    if look is not None:
        await look(generation, result)
    return result


def _shower(as_json: bool, as_jsonl: bool) -> Show:
    if as_jsonl:
        return _show_as_jsonl
    return _show_as_json if as_json else _show_as_text


def _show_as_text(event: "Event") -> None:
    from scheduler.request import Finished, Token

    if isinstance(event, Token) and event.text:
        click.echo(event.text, nl=False)
    elif isinstance(event, Finished):
        click.echo()
        _say_summary(event.result)


def _show_as_json(event: "Event") -> None:
    from scheduler.request import Finished

    if isinstance(event, Finished):
        _print_line(event.result.to_json())


def _show_as_jsonl(event: "Event") -> None:
    from scheduler.request import Finished, Routed, Token, Waiting

    match event:
        case Waiting(reason, code):
            _print_line({"event": "waiting", "code": code, "reason": reason})
        case Routed(route):
            _print_line({"event": "route", "route": [step.to_json() for step in route]})
        case Token(index, token_id, text, logprobs):
            told = logprobs.to_json() if logprobs else {}
            token = {"event": "token", "index": index, "token_id": token_id, "text": text}
            _print_line(token | told)
        case Finished(result):
            _print_line({"event": "done", **result.to_json()})


def _print_line(value: dict[str, Any]) -> None:
    is_utf8 = "utf" in (sys.stdout.encoding or "").lower()
    click.echo(json.dumps(value, ensure_ascii=not is_utf8))


def _say_summary(result: "GenerationResult") -> None:
    speed = 1000 / result.tpot_ms if result.tpot_ms else 0.0
    rescued = f", {result.failovers} failover(s)" if result.failovers else ""
    say(
        f"{len(result.token_ids)} tokens, {speed:.1f} tokens/s over {len(result.route)} hop(s)"
        f"{rescued}, seed {result.seed}"
    )
