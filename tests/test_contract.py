"""The API against its own OpenAPI document: generated requests, good and bad, and no 5xx."""

from __future__ import annotations

from typing import Any

import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance
from support.scripted_engine import ScriptedEngine

from qwen_vl import api
from qwen_vl.config import Settings
from qwen_vl.jobs import Jobs
from qwen_vl.metrics import Metrics


def app() -> FastAPI:
    engine, limits = ScriptedEngine("An ", "answer"), Settings(max_jobs=5)
    jobs = Jobs(engine, file=":memory:", keep_s=3600, most=limits.max_jobs)
    routes: list[Any] = api.build_router(engine, limits, jobs, Metrics()).routes
    return FastAPI(routes=routes, openapi_url=None, docs_url=None, redoc_url=None)


schema = schemathesis.openapi.from_asgi("/openapi.json", app())


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_server_keeps_its_own_word(case: schemathesis.Case) -> None:
    case.call_and_validate(
        checks=[not_a_server_error, status_code_conformance, response_schema_conformance]
    )
