"""The sampling fields of a request or of the page -> checked values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from qwen_vl.config import MIN_IMAGE_TOKENS, Settings
from qwen_vl.conversation import check_unicode
from qwen_vl.errors import BadRequest, TooLarge
from qwen_vl.schema import SamplingParams


def params_from(
    raw: Mapping[str, Any], defaults: SamplingParams, settings: Settings
) -> SamplingParams:
    """The sampling fields of a request over `defaults`; a missing or null field keeps its default.

    Reads temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty,
    frequency_penalty, logit_bias, max_tokens or max_completion_tokens, seed, stop and
    max_image_tokens. Raises BadRequest on a wrong type or a
    value out of range, and TooLarge when more tokens are asked for than the server gives.
    """
    newer = raw.get("max_completion_tokens") is not None
    length_field = "max_completion_tokens" if newer else "max_tokens"
    limit = settings.max_new_tokens
    length = _number(raw, length_field, min(defaults.max_new_tokens, limit), 1, math.inf, int)
    if length > limit:
        raise TooLarge(f"'{length_field}' is too large: this server gives at most {limit} tokens.")
    return SamplingParams(
        temperature=_number(raw, "temperature", defaults.temperature, 0, 2),
        top_p=_number(raw, "top_p", defaults.top_p, 0, 1),
        top_k=_number(raw, "top_k", defaults.top_k, 0, 1000, int),
        min_p=_number(raw, "min_p", defaults.min_p, 0, 1),
        repetition_penalty=_number(raw, "repetition_penalty", defaults.repetition_penalty, 0.5, 2),
        presence_penalty=_number(raw, "presence_penalty", defaults.presence_penalty, -2, 2),
        frequency_penalty=_number(raw, "frequency_penalty", defaults.frequency_penalty, -2, 2),
        logit_bias=_logit_bias(raw.get("logit_bias"), defaults.logit_bias),
        max_new_tokens=length,
        seed=_number(raw, "seed", defaults.seed, -(2**63), 2**63 - 1, int),
        stop=_stop(raw.get("stop"), defaults.stop),
        max_image_tokens=_number(
            raw,
            "max_image_tokens",
            defaults.max_image_tokens,
            MIN_IMAGE_TOKENS,
            settings.max_image_tokens,
            int,
        ),
    )


def _number(
    raw: Mapping[str, Any], name: str, default: Any, low: float, high: float, kind: type = float
) -> Any:
    value = raw.get(name)
    if value is None:
        return default
    whole = isinstance(value, float) and value.is_integer()  # sliders and JSON may say 20.0
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or (kind is int and not (isinstance(value, int) or whole)):
        raise BadRequest(f"'{name}' must be {'a whole' if kind is int else 'a'} number.")
    if not low <= value <= high:  # NaN fails too
        bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise BadRequest(f"'{name}' must be {bounds}.")
    return kind(value)


def _stop(raw: Any, default: tuple[str, ...]) -> tuple[str, ...]:
    if raw is None:
        return default
    stops = [raw] if isinstance(raw, str) else raw
    if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
        raise BadRequest("'stop' must be a non-empty string or a list of them.")
    if len(stops) > 16 or sum(len(s) for s in stops) > 1000:
        raise TooLarge("'stop' takes at most 16 strings of 1,000 characters in all.")
    check_unicode("".join(stops), "'stop'")
    return tuple(stops)


def _logit_bias(raw: Any, default: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
    """OpenAI's form: an object of token ids, as strings, and what to add to their logits."""
    if raw is None:
        return default
    if not isinstance(raw, Mapping) or len(raw) > 1024:
        raise BadRequest("'logit_bias' must be an object of at most 1,024 token ids and numbers.")
    if not all(isinstance(key, str) and key.isascii() and key.isdigit() for key in raw):
        raise BadRequest("'logit_bias' must have token ids, as strings, for its keys.")
    if any(len(key) > 9 for key in raw):
        raise BadRequest("'logit_bias' names a token id that no model has.")
    return tuple((int(key), _number(raw, key, 0.0, -100, 100)) for key in raw)
