"""Checks of what of this home answers HTTP now: to whom, and whether Prometheus can read it.

In: the gateways and node pages that run on this home. Out: what each answers to a caller of this
machine. A caller elsewhere may be stopped by a firewall before it, which `firewall` tells of.
"""

import http.client
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from manyhands.doctor.case import Case
from manyhands.doctor.finding import Check, Finding, fail, ok, on_thread, skip, warn
from manyhands.gateway.listening_options import LOOPBACK
from manyhands.running import found_running

ASK_S = 20.0  # a node's page is made by the first who asks for it
MAX_BYTES = 8 * 2**20
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # to whom: by whom it is reached from here
KEYED, KEY_VARIABLE = 401, "MANYHANDS_API_KEY"
NAMED = "manyhands_build_info"  # which every page of metrics has


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` 0: there was none, and `text` says why."""

    status: int
    text: str


def ask(url: str, path: str, key: str = "") -> Answer:
    """As a caller on this machine would, past any proxy."""
    at = urlsplit(url)
    host, port = at.hostname or "", at.port or 0
    target = EVERYWHERE.get(host, host)
    if at.scheme == "https":  # it is our own, at our own address: whoever signed its certificate
        trusting = ssl._create_unverified_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            target, port, timeout=ASK_S, context=trusting
        )
    else:
        connection = http.client.HTTPConnection(target, port, timeout=ASK_S)
    try:
        connection.request("GET", path, headers={"authorization": f"Bearer {key}"} if key else {})
        response = connection.getresponse()
        return Answer(response.status, response.read(MAX_BYTES).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, str(error) or type(error).__name__)
    finally:
        connection.close()


def _exposure(case: Case) -> Finding:
    """Whether whoever reaches a gateway has to show a key, and over what."""
    urls = [record.url for record in found_running(case.home) if record.url]
    if not urls:
        return skip("no gateway runs on this home")
    return worst([exposure_finding(url, ask(url, "/v1/models")) for url in urls])


def exposure_finding(url: str, told: Answer) -> Finding:
    """About a gateway that says this to who shows no key."""
    at = urlsplit(url)
    is_wide = at.hostname not in LOOPBACK
    if not told.status:
        return warn(f"{url} does not answer: {told.text}", "look at its log, and start it again")
    if not is_wide:
        asks = "with a key" if told.status == KEYED else "without a key"
        return ok(f"{url} is for this machine alone, {asks}")
    if told.status != KEYED:
        reason = f"{url} can be reached from elsewhere, and answers {told.status} without a key"
        return fail(reason, "manyhands gateway key new, then start the gateway again")
    if at.scheme != "https":
        reason = f"{url} can be reached from elsewhere; keys and prompts go there in the clear"
        return warn(reason, "--tls-cert FILE --tls-key FILE, or a proxy that has them")
    return ok(f"{url} can be reached from elsewhere, with a key, over TLS")


def _metrics(case: Case) -> Finding:
    """Whether a Prometheus on this machine would get what it can read."""
    key = case.asked.environment.get(KEY_VARIABLE, "")
    doors = [(each.url or each.page, bool(each.url)) for each in found_running(case.home)]
    doors = [door for door in doors if door[0]]
    if not doors:
        return skip("neither a gateway nor a node's page runs on this home")
    return worst(
        [metrics_finding(url, ask(url, "/metrics", key if is_api else "")) for url, is_api in doors]
    )


def metrics_finding(url: str, told: Answer) -> Finding:
    """About a door that answers this for `/metrics`."""
    if told.status == KEYED:
        reason = f"{url}/metrics asks for a key, which Prometheus needs to have, too"
        return skip(f"{reason}; {KEY_VARIABLE}=KEY manyhands doctor   reads it with one")
    if told.status != http.client.OK:
        said = told.status or told.text
        return fail(f"{url}/metrics cannot be read: {said}", "look at its log, and start it again")
    try:
        names = set(_families(told.text))
    except ValueError as error:
        reason = f"{url}/metrics is nothing that Prometheus reads: {str(error)[:100]}"
        return fail(reason, "see what listens there; docs/operate.md says what should")
    if NAMED not in names:
        reason = f"{url}/metrics is of something else: {NAMED} is not in it"
        return fail(reason, "see what listens there; docs/operate.md says what should")
    return ok(f"{url}/metrics has {len(names)} metrics")


def _families(text: str) -> Iterator[str]:
    from prometheus_client.parser import text_string_to_metric_families

    return (family.name for family in text_string_to_metric_families(text))


def worst(found: list[Finding]) -> Finding:
    """Of several doors: the worst, or what is well of all."""
    order = ("fail", "warn", "skip", "ok")
    chosen = min(found, key=lambda each: order.index(each.verdict))
    alike = [each.reason for each in found if each.verdict is chosen.verdict]
    return Finding(chosen.verdict, "; ".join(alike), chosen.fix, chosen.mend)


CHECKS = (
    Check("exposure", "who may use the gateways of this home", on_thread(_exposure), 30.0),
    Check("metrics", "whether Prometheus can read what runs on this home", on_thread(_metrics), 30),
)
