"""`manyhands gateway explain FILE`: who would answer a request, by which rule, over which peers.

In: the JSON of a request, the URL of a gateway that runs. Out: its decision, for people or as JSON.
Nothing is asked of the swarm or an upstream.
"""

import json
import ssl
from typing import Any, TextIO

import click

from manyhands.gateway.listening_options import DEFAULT_PORT
from manyhands.options import json_option
from protocol.errors import ManyhandsError, PeerUnreachable, UsageError

TIMEOUT_S = 30.0


@click.command("explain", short_help="Who would answer a request, and why.")
@click.argument("file", type=click.File("r"), metavar="FILE")
@click.option(
    "--url",
    default=f"http://127.0.0.1:{DEFAULT_PORT}",
    metavar="URL",
    help=f"Of the gateway. Default: http://127.0.0.1:{DEFAULT_PORT}.",
)
@click.option("--api-key", envvar="MANYHANDS_API_KEY", metavar="KEY", help="Where it asks for one.")
@click.option("--embeddings", is_flag=True, help="FILE is for /v1/embeddings.")
@json_option
def explain(file: TextIO, url: str, api_key: str | None, embeddings: bool, as_json: bool) -> None:
    """Ask a gateway that runs what it would do with the request in FILE (`-`: standard input)."""
    try:
        asked = json.load(file)
    except ValueError as error:
        hint = "give the body of a request, as a client would send it"
        raise UsageError(f"{file.name} is not JSON: {error}", hint=hint) from error
    path = "/api/v1/explain" + ("?endpoint=embeddings" if embeddings else "")
    told = _told(url.rstrip("/").removesuffix("/v1") + path, asked, api_key)
    if as_json:
        click.echo(json.dumps(told))
        return
    decision = told["decision"]
    click.echo(f"{decision['target']}: rule {decision['rule']} ({decision['why']})")
    for rule in decision["rules"]:
        click.echo(f"  {'holds' if rule['holds'] else 'no   '}  {rule['rule']}: {rule['why']}")
    if decision["then"]:
        click.echo(f"if that fails: {', '.join(decision['then'])}")
    within = ", ".join(f"{name} {value}" for name, value in told["limits"].items())
    click.echo(f"data {told['data_class']}" + (f": within {within}" if within else ""))
    for route in (told["route"] or {"routes": []})["routes"][:1]:
        for hop in route["hops"]:
            start, stop = hop["span"]
            click.echo(f"  blocks {start}:{stop}  {hop['peer']}")


def _told(url: str, asked: Any, api_key: str | None) -> dict[str, Any]:
    import httpx2

    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        answer = httpx2.post(
            url,
            json=asked,
            headers=headers,
            timeout=TIMEOUT_S,
            trust_env=False,
            verify=ssl.create_default_context(),  # what the system trusts, SSL_CERT_FILE too
        )
        told: dict[str, Any] = answer.json()
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        reason = f"no gateway answers at {url}: {type(error).__name__}"
        raise PeerUnreachable("", reason, hint="name it with --url http://HOST:PORT") from error
    if answer.status_code != 200:
        raise _refusal(told)
    return told


def _refusal(told: Any) -> ManyhandsError:
    error = told.get("error") if isinstance(told, dict) else None
    said = error if isinstance(error, dict) else {}
    message = f"{said.get('code', 'error')}: {said.get('message', 'it refuses')}"
    return UsageError(message, hint="docs/gateway.md says what each code means")
