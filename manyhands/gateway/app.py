"""The gateway as an ASGI application: its routes, and one shape for all that goes wrong.

In: a `Gateway`, its `Readiness`, who is let in. Out: an app. Whatever fails anywhere, a route that
is not there included, ends as the body that `faults.py` defines. There are no pages from elsewhere
and, unless the operator names origins, no CORS headers: other sites' scripts cannot read what
stands here.
"""

from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from manyhands import __version__
from manyhands.dashboard.routes import Panel, page_router
from manyhands.gateway import (
    completions,
    coverage_told,
    embeddings,
    explain_told,
    metrics,
    models_list,
    readiness,
    responses,
    route_told,
    tokens,
)
from manyhands.gateway.complaints import invalid
from manyhands.gateway.describing import describe
from manyhands.gateway.door import Admit, Door, admit_own
from manyhands.gateway.faults import MISTAKE, ApiError, explained
from manyhands.gateway.gateway import Gateway
from manyhands.gateway.own_headers import TOLD
from manyhands.gateway.readiness import Readiness
from protocol.errors import ManyhandsError
from protocol.tracing import Tracer

RATES = ("limit", "remaining", "reset")
EXPOSED = (
    *("x-request-id", "retry-after", "retry-after-ms", "x-should-retry", "openai-processing-ms"),
    *(f"x-ratelimit-{of}-{what}" for of in RATES for what in ("requests", "tokens")),
    *TOLD,
)
PARTS = (
    *(completions, responses, embeddings, models_list, tokens),
    *(readiness, metrics, route_told, explain_told, coverage_told),
)


def make_app(
    gateway: Gateway,
    ready: Readiness,
    admit: Admit = admit_own,
    panel: Panel | None = None,
    origins: Sequence[str] = (),
    tracer: Tracer | None = None,
) -> ASGIApp:
    """panel: what the dashboard shows, where there is more to show than this app's own traffic.
    origins: of other sites whose pages may ask, and read what they are told. tracer: who keeps
    spans of answers."""
    panel = panel or Panel()
    app = routed(panel)
    app.state.gateway, app.state.readiness = gateway, ready
    app.state.metrics = metrics.Metrics()
    app.state.metrics.expect(served.id for served in gateway.catalogue.served)
    app.state.panel, app.state.tracer = panel, tracer
    count = app.state.metrics.answered
    door = Door(app, gateway.bounds, admit, gateway.allowances, count)
    if not origins:
        return door
    return CORSMiddleware(
        door,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),  # the origin is what is trusted; clients send many of their own
        expose_headers=EXPOSED,
    )


def routed(panel: Panel) -> FastAPI:
    """All paths, and nobody behind them yet."""
    app = bare_app("Manyhands gateway")
    for part in PARTS:
        app.include_router(part.router)
    app.include_router(page_router(panel))
    return app


def bare_app(title: str) -> FastAPI:
    """Without routes: what goes wrong in those that it gets ends as a body of `faults.py`."""
    app = FastAPI(
        title=title,
        version=__version__,
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        exception_handlers={
            ApiError: _refused,
            ManyhandsError: _failed,
            RequestValidationError: _invalid,
            HTTPException: _not_routed,
            Exception: _mistaken,
        },
    )
    describe(app)
    return app


def response_of(error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status, error.headers())


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return response_of(error)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, ManyhandsError)
    return response_of(explained(error))


async def _mistaken(request: Request, error: Exception) -> Response:
    return response_of(ApiError("internal_error", MISTAKE))


async def _not_routed(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself: paths, methods, and bodies that cannot be read."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ApiError):  # our own, raised while it read the body
        return response_of(error.__cause__)
    method, path = request.method, request.url.path[:100]
    if error.status_code == 404:
        return response_of(ApiError("not_found", f"there is nothing at {path}"))
    if error.status_code == 405:
        refusal = ApiError("method_not_allowed", f"{path} does not take {method}")
        response = response_of(refusal)
        response.headers.update(error.headers or {})
        return response
    return response_of(ApiError("invalid_json", "the body is not JSON in UTF-8"))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if not request.headers.get("content-type", "").lower().startswith("application/json"):
        message = "send the body as JSON, with content-type: application/json"
        return response_of(ApiError("unsupported_media_type", message))
    return response_of(invalid(error.errors()))
