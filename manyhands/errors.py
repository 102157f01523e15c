"""What the Python clients raise: one tree, whose codes are those that a gateway answers with.

ManyhandsError                    whatever can go wrong here (`protocol.errors`)
    RequestError                  an answer was refused, or failed
        InvalidRequest            the request must change: 400, 404, 405, 408, 413, 415
            ContextLengthExceeded prompt and answer do not fit the context
            ModelNotFound         nobody serves a model of that name
        AuthError                 401: no key, or a wrong one
        PolicyDenied              403: rules of the swarm, or of the gateway, say no
        Overloaded                429, 503: no room now; `retry_after_s` says when to ask again
        BudgetExceeded            429: it would cost more than the key or the request lets it
        SwarmIncomplete           503: nobody serves some blocks; `missing` names them
        SwarmUnreachable          503: nobody answers at all
        PeerFailed                502: peers failed, and no other could take over
        VerificationFailed        502: a peer's work did not hold
        DeadlineExceeded          504: the answer was not complete in time
        InternalError             500: a mistake of ours
    ConfigError, IntegrityError…  of this machine: its home, key, ledger or weights

In: a code of `manyhands.gateway.faults`, the one table of them. Out: the error to raise. What a
client on a swarm raises is what a client of a gateway raises in the same case.
"""

from collections.abc import Mapping, Sequence

from manyhands.gateway.faults import FAULTS, ApiError, explained, in_fields
from protocol import errors as protocol
from protocol.errors import ConfigError, IntegrityError, ManyhandsError

__all__ = [
    "AuthError",
    "BudgetExceeded",
    "ConfigError",
    "ContextLengthExceeded",
    "DeadlineExceeded",
    "IntegrityError",
    "InternalError",
    "InvalidRequest",
    "ManyhandsError",
    "ModelNotFound",
    "Overloaded",
    "PeerFailed",
    "PolicyDenied",
    "RequestError",
    "SwarmIncomplete",
    "SwarmUnreachable",
    "VerificationFailed",
]


class RequestError(ManyhandsError):
    """`code` and `status` are those of the HTTP API, whichever way it was asked.

    param: the field to blame, as a dotted path. request_id: of the gateway that refused.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "internal_error",
        status: int = 500,
        hint: str = "",
        param: str | None = None,
        request_id: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        ManyhandsError.__init__(self, message, hint=hint)  # not what stands beside it in a line
        self.code, self.status, self.param = code, status, param
        self.request_id, self.retry_after_s = request_id, retry_after_s


class InvalidRequest(RequestError, protocol.UsageError):
    """The request must change before it can be answered."""


class ContextLengthExceeded(InvalidRequest, protocol.ContextExceeded):
    """Prompt and answer do not fit the model's context. A prompt is never cut."""


class ModelNotFound(InvalidRequest, protocol.NoSuchModel):
    """Nobody serves a model of that name."""


class AuthError(RequestError):
    """The gateway wants a key, or another one."""


class PolicyDenied(RequestError):
    """Rules of the swarm or of the gateway say no."""


class Overloaded(RequestError):
    """No room now; `retry_after_s` says when to ask again."""


class BudgetExceeded(RequestError, protocol.BudgetExceeded):
    """It would cost more than the budget of the key, or the request, lets it."""


class SwarmIncomplete(RequestError, protocol.SwarmIncomplete):
    """Nobody serves some blocks; `missing` has them as half-open runs, where that is known."""

    missing: tuple[tuple[int, int], ...] = ()
    constraint = ""


class SwarmUnreachable(RequestError):
    """No peer answers, or no gateway."""


class PeerFailed(RequestError):
    """Peers failed in the middle of an answer, and no other could take over."""


class VerificationFailed(RequestError):
    """A peer's work did not hold."""


class DeadlineExceeded(RequestError, protocol.SessionTimeout):
    """The answer was not complete in time."""


class InternalError(RequestError):
    """A mistake of ours."""


BY_CODE: Mapping[str, type[RequestError]] = {
    "context_length_exceeded": ContextLengthExceeded,
    "insufficient_quota": BudgetExceeded,
    "model_not_found": ModelNotFound,
    "swarm_incomplete": SwarmIncomplete,
    "swarm_unreachable": SwarmUnreachable,
    "verification_failed": VerificationFailed,
}
BY_STATUS: Mapping[int, type[RequestError]] = {
    401: AuthError,
    403: PolicyDenied,
    429: Overloaded,
    500: InternalError,
    502: PeerFailed,
    503: Overloaded,
    504: DeadlineExceeded,
}


def class_of(code: str, status: int) -> type[RequestError]:
    of_status = InvalidRequest if 400 <= status < 500 else InternalError
    return BY_CODE.get(code) or BY_STATUS.get(status, of_status)


def error_of(
    code: str,
    message: str,
    *,
    status: int | None = None,
    hint: str = "",
    param: str | None = None,
    request_id: str = "",
    retry_after_s: float | None = None,
    missing: Sequence[tuple[int, int]] = (),
) -> RequestError:
    """What to raise for a code. status: as it was answered; None: the one that goes with it."""
    fault = FAULTS.get(code)
    status = status or (fault.status if fault else 500)
    if retry_after_s is None and fault is not None:
        retry_after_s = fault.retry_after_s
    error = class_of(code, status)(
        message,
        code=code,
        status=status,
        hint=hint,
        param=param,
        request_id=request_id,
        retry_after_s=retry_after_s,
    )
    if isinstance(error, SwarmIncomplete):
        error.missing = tuple(missing)
    return error


def of_failure(error: ManyhandsError | ApiError) -> ManyhandsError:
    """What a failure on this side is to whoever called; of this machine's own, the same."""
    cause = error.__cause__ if isinstance(error, ApiError) else error
    fault = error if isinstance(error, ApiError) else explained(error)
    if not isinstance(cause, ManyhandsError):
        return error_of(fault.code, fault.message, param=fault.param)
    if isinstance(cause, RequestError) or fault.status == 500:
        return cause
    return error_of(
        fault.code,
        str(cause),
        hint=in_fields(cause.hint),
        param=fault.param,
        missing=cause.missing if isinstance(cause, protocol.SwarmIncomplete) else (),
    )
