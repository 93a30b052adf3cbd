"""Errors as HTTP responses in the OpenAI shape. Knows HTTP and the `errors` family."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from qwen_vl.errors import Bug, OutOfTime, UserError
from qwen_vl.gate.refusals import error_object
from qwen_vl.metrics import Metrics

logger = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]


def error_body(error: UserError) -> dict[str, Any]:
    """The error; after a timeout, also the text so far."""
    body = error_object(error)
    if isinstance(error, OutOfTime):
        body["error"]["partial"] = error.partial
    return body


def error_response(error: UserError) -> Response:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)


def answering_errors(
    metrics: Metrics, route: str, check: Callable[[Request], None]
) -> Callable[[Endpoint], Endpoint]:
    """Calls `check`, then the endpoint. What either raises becomes a response."""

    def around(endpoint: Endpoint) -> Endpoint:
        @functools.wraps(endpoint)
        async def answering(request: Request) -> Response:
            response = await _answer(endpoint, request, check)
            metrics.requests.labels(route, str(response.status_code)).inc()
            return response

        return answering

    return around


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
        logger.exception("%s %s broke", request.method, request.url.path)
        return error_response(Bug())
