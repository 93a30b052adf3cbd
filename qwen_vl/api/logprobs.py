"""Log probabilities: what a request asks of them, and how answers tell them.

Source: the OpenAI API reference, "Create chat completion" (`logprobs`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field

from qwen_vl.api.payloads import flag
from qwen_vl.errors import BadRequest
from qwen_vl.sampling import WHOLE, checked
from qwen_vl.schema import TokenLogprob

MOST_LIKELIEST = 20
_Likeliest = Annotated[int, Field(ge=0, le=MOST_LIKELIEST), WHOLE]


def asked_logprobs(raw: Mapping[str, Any]) -> int | None:
    """How many of the likeliest tokens a chat request asks for; None if it asks for nothing."""
    wanted, most = flag(raw, "logprobs"), raw.get("top_logprobs")
    if most is not None:
        most = checked("top_logprobs", _Likeliest, most)
    if most and not wanted:
        raise BadRequest("'top_logprobs' goes with 'logprobs': true.")
    return most or 0 if wanted else None


def logprobs_object(told: Iterable[TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` of a choice."""
    content = [
        {**_one(token), "top_logprobs": [_one(other) for other in token.likeliest]}
        for token in told
    ]
    return {"content": content, "refusal": None}


def _one(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}
