"""A conversation as a request to a server that speaks the OpenAI API.

Knows the OpenAI chat format as a client. Knows nothing of connections, servers or answers.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from PIL import Image

from qwen_vl.schema import ImagePart, Message, SamplingParams

PNG_PIXELS = 500_000  # larger pictures travel as JPEG
TOKEN_PIXELS = 32 * 32
# Fields that OpenAI's API does not have.
_EXTRAS = ("top_k", "min_p", "repetition_penalty", "max_image_tokens")
# A server that refuses one of these is asked without it. `logit_bias` is not among them: an answer
# without it is another one, and the refusal may be about one visitor's token id.
_OPTIONAL = (
    *_EXTRAS,
    "stream_options",
    "seed",
    "frequency_penalty",
    "presence_penalty",
)


def request_of(messages: Sequence[Message], params: SamplingParams) -> dict[str, Any]:
    """The arguments of `chat.completions.create` but for the model."""
    request: dict[str, Any] = {
        "messages": [_message(message, params.max_image_tokens) for message in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_tokens": params.max_new_tokens,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "extra_body": {name: getattr(params, name) for name in _EXTRAS},
    }
    if params.seed is not None:
        request["seed"] = params.seed
    if params.stop:
        request["stop"] = list(params.stop)
    if params.logit_bias:
        request["logit_bias"] = {str(token): bias for token, bias in params.logit_bias}
    return request


def _message(message: Message, max_image_tokens: int) -> dict[str, Any]:
    if not message.images:
        return {"role": message.role, "content": message.text}
    content: list[dict[str, Any]] = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            if part.time_s is not None:
                content.append({"type": "text", "text": f"<{part.time_s:.1f} seconds>"})
            url = _data_uri(part.image, max_image_tokens * TOKEN_PIXELS)
            content.append({"type": "image_url", "image_url": {"url": url}})
        else:
            content.append({"type": "text", "text": part.text})
    return {"role": message.role, "content": content}


def _data_uri(image: Image.Image, most_pixels: int) -> str:
    share = (most_pixels / (image.width * image.height)) ** 0.5
    if share < 1:
        size = (max(1, int(image.width * share)), max(1, int(image.height * share)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    kind = "PNG" if image.width * image.height <= PNG_PIXELS else "JPEG"
    file = BytesIO()
    image.save(file, kind, quality=92)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def without(request: dict[str, Any], refused: set[str]) -> dict[str, Any]:
    """The request but for the fields that a server refuses."""
    left = {name: value for name, value in request.items() if name not in refused}
    extra = {name: v for name, v in request["extra_body"].items() if name not in refused}
    return {**left, "extra_body": extra}


def means_off(name: str, request: dict[str, Any]) -> bool:
    """Whether the value of a field only switches it off, which not every server writes alike."""
    return name == "top_k" and request["extra_body"]["top_k"] == 0


def refused_field(said: str, request: dict[str, Any], refused: set[str]) -> str | None:
    """The optional field that an error is about; None if it is about the question itself."""
    sent = [name for name in _OPTIONAL if name in request or name in request["extra_body"]]
    return next((name for name in sent if name in said and name not in refused), None)
