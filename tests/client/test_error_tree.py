"""One table of codes: each is one class of the Python API, and each of our errors has one."""

import inspect

from manyhands import errors
from manyhands.gateway.faults import FAULTS, ApiError, explained
from protocol import errors as protocol


def test_every_code_of_the_http_api_is_an_error_with_that_code_and_status():
    for code, fault in FAULTS.items():
        error = errors.error_of(code, "why")

        assert (error.code, error.status, str(error)) == (code, fault.status, "why")
        assert error.retry_after_s == fault.retry_after_s
        assert type(error).__name__ in errors.__all__


def test_codes_that_nobody_knows_yet_go_by_their_status():
    known = {402: errors.InvalidRequest, 403: errors.PolicyDenied, 503: errors.Overloaded}

    for status, kind in known.items():
        error = errors.error_of("brand_new", "why", status=status)
        assert (type(error), error.code, error.status) == (kind, "brand_new", status)


def test_every_class_of_the_tree_is_named_in_its_docstring():
    for name in errors.__all__:
        assert name in (errors.__doc__ or "")


def test_what_fails_on_a_swarm_has_the_code_that_a_gateway_would_answer():
    kinds = [
        kind
        for _, kind in inspect.getmembers(protocol, inspect.isclass)
        if issubclass(kind, protocol.ManyhandsError)
    ]
    for kind in kinds:
        if kind is protocol.ChainBroken:
            failure: protocol.ManyhandsError = kind([])
        elif kind is protocol.SwarmIncomplete:
            failure = kind([(3, 5)])
        elif issubclass(kind, protocol.PeerError):
            failure = kind("", "why", hint="do this")
        else:
            failure = kind("why", hint="do this")

        told = errors.of_failure(failure)

        if (code := explained(failure).code) == "internal_error":
            assert told is failure  # of this machine, and a gateway's caller hears no more
        else:
            assert isinstance(told, errors.RequestError)
            assert (told.code, str(told), told.hint) == (code, str(failure), failure.hint)
    assert errors.of_failure(protocol.SwarmIncomplete([(3, 5)])).missing == ((3, 5),)


def test_a_refusal_of_the_gateway_s_own_keeps_its_field():
    told = errors.of_failure(ApiError("invalid_value", "too hot", param="temperature"))

    assert isinstance(told, errors.InvalidRequest)
    assert isinstance(told, protocol.UsageError)
    assert (told.code, told.param) == ("invalid_value", "temperature")
