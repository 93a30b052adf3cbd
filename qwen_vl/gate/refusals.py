"""The body of a refusal, in the form that clients of the OpenAI API read."""

from __future__ import annotations

from typing import Any

from qwen_vl.errors import UserError


def error_object(error: UserError) -> dict[str, Any]:
    if error.status == 429:
        kind = "rate_limit_error"
    else:
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {"error": {"message": str(error), "type": kind, "param": None, "code": error.code}}
