"""Errors as HTTP responses in the OpenAI shape. Knows HTTP and the `errors` family."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from uuid import uuid4

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from qwen_vl.errors import Bug, UserError
from qwen_vl.gate.refusals import error_object
from qwen_vl.metrics import Metrics

logger = logging.getLogger(__name__)

MAX_ID_CHARS = 128

Endpoint = Callable[[Request], Awaitable[Response]]


def error_response(error: UserError) -> Response:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 504:
        headers["x-should-retry"] = "false"  # or OpenAI's clients would do all of the work again
    return JSONResponse(error_object(error), status_code=error.status, headers=headers)


def answering_errors(
    metrics: Metrics, route: str, check: Callable[[Request], None]
) -> Callable[[Endpoint], Endpoint]:
    """Calls `check`, then the endpoint. What either raises becomes a response."""

    def around(endpoint: Endpoint) -> Endpoint:
        @functools.wraps(endpoint)
        async def answering(request: Request) -> Response:
            response = await _answer(endpoint, request, check)
            response.headers["x-request-id"] = request_id(request)
            metrics.requests.labels(route, str(response.status_code)).inc()
            return response

        return answering

    return around


def request_id(request: Request) -> str:
    """The client's own id for this request, or a new one, the same for the whole request."""
    if not hasattr(request.state, "id"):
        given = request.headers.get("x-request-id", "")
        good = given.isascii() and given.isprintable() and 0 < len(given) <= MAX_ID_CHARS
        request.state.id = given if good else uuid4().hex
    return str(request.state.id)


async def _answer(
    endpoint: Endpoint, request: Request, check: Callable[[Request], None]
) -> Response:
    try:
        check(request)
        return await endpoint(request)
    except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it; nginx's number for this
    except UserError as error:
        return error_response(error)
    except Exception:  # a bug: logged whole here, told to the client without details
        told = (request.method, request.url.path, request_id(request))
        logger.exception("%s %s broke (request %s)", *told)
        return error_response(Bug())
