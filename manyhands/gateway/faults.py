"""What an HTTP caller is told when something fails: one table, from which the docs are made too.

In: an error of ours, or a refusal of the gateway's own. Out: a status, a body in the shape that
OpenAI's clients read, and the headers by which they decide whether to ask again. `FAULTS` has every
code there is; `CODES` says which of them each class of `protocol.errors` becomes.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protocol import errors

CALLER, SERVER = "invalid_request_error", "server_error"
MAX_MESSAGE_CHARS = 2000
MISTAKE = "the gateway failed; its log says more under this request's id"


@dataclass(frozen=True, slots=True)
class Fault:
    """`retry_after_s`: when asking again may help; None: not by itself."""

    status: int
    type: str
    when: str
    retry_after_s: float | None = None


FAULTS: Mapping[str, Fault] = {
    "invalid_json": Fault(400, CALLER, "the body is not JSON"),
    "invalid_value": Fault(400, CALLER, "a field is missing, or is not what it should be"),
    "unsupported_parameter": Fault(400, CALLER, "a field that this gateway does not have"),
    "unsupported_value": Fault(400, CALLER, "a value that this gateway or model cannot honour"),
    "context_length_exceeded": Fault(400, CALLER, "prompt and answer do not fit the context"),
    "invalid_json_schema": Fault(400, CALLER, "a JSON schema that is none, or cannot be kept to"),
    "invalid_grammar": Fault(400, CALLER, "a pattern or grammar that is none"),
    "invalid_api_key": Fault(401, "authentication_error", "no key, a wrong one, or a revoked one"),
    "insufficient_permissions": Fault(
        403, "permission_error", "this key, or this home in its swarm, may not do that"
    ),
    "data_residency_violation": Fault(
        403, "permission_error", "the data may not go where it would have to; the rule is named"
    ),
    "host_not_allowed": Fault(
        403,
        "permission_error",
        "a gateway without keys was asked under a foreign name, or through a proxy",
    ),
    "origin_not_allowed": Fault(
        403, "permission_error", "another site's page may not act on a node through its page"
    ),
    "invalid_page_token": Fault(
        403, "permission_error", "an act without the token that the node's page was told"
    ),
    "model_not_released": Fault(
        403, "permission_error", "the swarm's rules keep the model from being used"
    ),
    "terms_not_accepted": Fault(
        403, "permission_error", "a licence or the swarm's terms, which nobody here accepted"
    ),
    "model_not_found": Fault(404, CALLER, "no model of that name is served here"),
    "not_found": Fault(404, CALLER, "there is nothing at this path"),
    "method_not_allowed": Fault(405, CALLER, "this path takes another method"),
    "request_timeout": Fault(408, CALLER, "the request did not arrive in time"),
    "request_too_large": Fault(413, CALLER, "the body is larger than the gateway takes"),
    "unsupported_media_type": Fault(415, CALLER, "the body is not sent as application/json"),
    "rate_limit_exceeded": Fault(
        429, "rate_limit_error", "this key asks as much at a time, or in a minute, as it may", 1
    ),
    "insufficient_quota": Fault(
        429,
        "insufficient_quota",
        "it would cost more than this key's budget, the request, or the swarm's credit lets it",
    ),
    "internal_error": Fault(500, SERVER, "a mistake of ours; the log has the request id"),
    "peer_failed": Fault(502, SERVER, "peers failed, and no other could take over", 1),
    "upstream_failed": Fault(
        502, SERVER, "the upstream that a rule chose failed, and nobody else", 1
    ),
    "verification_failed": Fault(502, SERVER, "a peer's work did not hold"),
    "swarm_incomplete": Fault(503, SERVER, "nobody serves some blocks of the model; named", 5),
    "swarm_unreachable": Fault(503, SERVER, "no peer of the swarm answers", 5),
    "overloaded": Fault(503, SERVER, "no room now, here or on the peers", 1),
    "keys_unreadable": Fault(
        503, SERVER, "the gateway cannot read its file of keys, and lets nobody in meanwhile", 30
    ),
    "starting": Fault(503, SERVER, "the swarm behind the gateway is still starting", 2),
    "shutting_down": Fault(503, SERVER, "the gateway is ending", 5),
    "timeout": Fault(504, SERVER, "the answer was not complete in time"),
}

CODES: Mapping[type[errors.ManyhandsError], str] = {  # the nearest class in an error's line counts
    errors.ManyhandsError: "internal_error",
    errors.UsageError: "invalid_value",
    errors.NoSuchModel: "model_not_found",
    errors.BadSchema: "invalid_json_schema",
    errors.BadGrammar: "invalid_grammar",
    errors.ContextExceeded: "context_length_exceeded",
    errors.BadRows: "verification_failed",
    errors.BadResult: "verification_failed",
    errors.LicenceNotAccepted: "terms_not_accepted",
    errors.OutOfMemory: "overloaded",
    errors.PeerError: "peer_failed",
    errors.PeerUnreachable: "swarm_unreachable",
    errors.PeerBusy: "overloaded",
    errors.NotAMember: "insufficient_permissions",
    errors.MembershipEnded: "insufficient_permissions",
    errors.NotPermitted: "model_not_released",
    errors.NotAccepted: "terms_not_accepted",
    errors.PeerMisbehaved: "verification_failed",
    errors.ChainBroken: "peer_failed",
    errors.SwarmIncomplete: "swarm_incomplete",
    errors.SessionTimeout: "timeout",
    errors.BudgetExceeded: "insufficient_quota",
    errors.NotFunded: "insufficient_quota",
    errors.NoQuorum: "overloaded",
}

SAME = (
    *("believe-regions", "max-price", "max-cost", "max-prepaid"),
    *("avoid", "require", "no-relays", "profile"),
)
FIELDS = {  # what a hint calls by the flag of `manyhands generate`
    **{flag: f"manyhands.{flag.replace('-', '_')}" for flag in SAME},
    "region": "manyhands.regions",
    "group": "manyhands.groups",
    "wait": "manyhands.wait_s",
    "timeout": "manyhands.timeout_s",
    "max-tokens": "max_tokens",
}
LIMIT = "fewer tokens at most"  # each path of the API has its own field for that, or two
FLAG = re.compile(r"(?<![\w-])--([a-z]+(?:-[a-z]+)*)")
HINTED = {
    "insufficient_quota",
    "swarm_incomplete",
    "swarm_unreachable",
    "terms_not_accepted",
    "model_not_released",
}


class ApiError(Exception):
    """A refusal on its way to an HTTP caller. `param`: the dotted path of the field to blame.
    `retry_after_s`: where that is known better than the table does. `hint`: what mends it, which
    the message says besides. `missing`: blocks that nobody serves."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        hint: str = "",
        missing: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message[:MAX_MESSAGE_CHARS], param
        self.fault = FAULTS[code]
        self.retry_after_s = retry_after_s
        self._more = {"hint": hint, "missing": [list(run) for run in missing]}

    @property
    def status(self) -> int:
        return self.fault.status

    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": self.fault.type,
                "param": self.param,
                "code": self.code,
                **{name: value for name, value in self._more.items() if value},
            }
        }

    def headers(self) -> dict[str, str]:
        """`retry-after-ms` and `x-should-retry` are what OpenAI's clients obey besides."""
        headers = {} if self.status != 401 else {"www-authenticate": "Bearer"}
        wait_s = self.fault.retry_after_s if self.retry_after_s is None else self.retry_after_s
        if wait_s is not None:
            headers["retry-after"] = f"{max(1, math.ceil(wait_s))}"  # RFC 9110: whole seconds
            if self.fault.retry_after_s is not None:
                headers["retry-after-ms"] = f"{math.ceil(1000 * wait_s)}"
        if self.fault.retry_after_s is None and (self.status >= 500 or self.status == 429):
            headers["x-should-retry"] = "false"
        return headers


def explained(error: errors.ManyhandsError) -> ApiError:
    """The same error for an HTTP caller; what mends it stands in the message."""
    named = isinstance(error, errors.PeerUnreachable) and error.peer_id
    code = "peer_failed" if named else _code(type(error))
    if FAULTS[code].status == 500:
        return ApiError(code, MISTAKE)
    hint = in_fields(error.hint, {**FIELDS, "max-tokens": LIMIT}) if code in HINTED else ""
    missing = error.missing if isinstance(error, errors.SwarmIncomplete) else ()
    message = f"{error} ({hint})" if hint else str(error)
    return ApiError(code, message, hint=hint, missing=missing)


def in_fields(hint: str, fields: Mapping[str, str] = FIELDS) -> str:
    """A hint for who sends bodies, not flags; flags of other commands stay. What has no field is
    left out, where the hint says something else besides."""
    clauses = hint.split("; ")
    kept = [each for each in clauses if "manyhands " in each or fields.keys() >= _flags(each)]
    return FLAG.sub(lambda flag: fields.get(flag[1], flag[0]), "; ".join(kept or clauses))


def _flags(text: str) -> set[str]:
    return set(FLAG.findall(text))


def _code(kind: type[errors.ManyhandsError]) -> str:
    return next(CODES[each] for each in kind.__mro__ if each in CODES)
