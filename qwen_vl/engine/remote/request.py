"""A conversation as a request to a server that speaks the OpenAI API.

Knows the OpenAI chat format as a client. Knows nothing of connections, servers or answers.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

from PIL import Image

from qwen_vl.constraint import wire_fields
from qwen_vl.media.pictures import content_hash
from qwen_vl.sampling import FIELDS, SamplingParams, wire_names
from qwen_vl.schema import ImagePart, Message, abandon_pictures, is_raw, without_pairs

PNG_PIXELS = 500_000  # larger pictures travel as JPEG
TOKEN_PIXELS = 32 * 32
ENCODERS = 2  # requests whose pictures are decoded and encoded at the same time
KEPT_BYTES = 128 * 2**20  # of encoded pictures that may be asked for again
# The sampling fields that OpenAI's API has, by their names there; the others are extras.
_OPENAI = (
    *("temperature", "top_p", "max_tokens", "presence_penalty", "frequency_penalty"),
    *("seed", "stop", "logit_bias"),
)
_TEMPLATE_ARGUMENTS = ("enable_thinking", "preserve_thinking")
_EXTRAS = (
    *(
        wire_names(name)[-1]
        for name in FIELDS
        if wire_names(name)[-1] not in (*_OPENAI, *_TEMPLATE_ARGUMENTS)
    ),
    "chat_template_kwargs",
)
# A server that refuses one of these is asked without it. `logit_bias` is not among them: an answer
# without it is another one, and the refusal may be about one visitor's token id. Nor is what an
# answer must look like, or must tell: who asked for JSON that fits a schema, or for log
# probabilities, reads the server's refusal.
OPTIONAL = (
    *_EXTRAS,
    "cache_salt",
    "continue_final_message",
    "add_generation_prompt",
    "stream_options",
    "seed",
    "frequency_penalty",
    "presence_penalty",
)

Encode = Callable[[ImagePart], str]


class Requests:
    """Makes requests of conversations, in a few threads where there are pictures.

    A picture is encoded once for all questions of its scope, however often they are asked again.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._threads = ThreadPoolExecutor(ENCODERS, "remote-encode")
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str, int], str] = OrderedDict()  # the newest last
        self._kept_bytes = 0

    async def make(
        self, messages: Sequence[Message], params: SamplingParams, scope: str
    ) -> dict[str, Any]:
        """The arguments of `chat.completions.create`, or `completions.create`, except the model.

        Raises what decoding a picture raises. When cancelled, its pictures are abandoned.
        """
        salt = hmac.new(self._secret, scope.encode(errors="replace"), "sha256").hexdigest()

        def made() -> dict[str, Any]:
            uri = self._uri_for(params.max_image_tokens, scope)
            return request_of(messages, params, uri, salt if scope else "")

        if not any(message.images for message in messages):
            return made()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, made)
        except asyncio.CancelledError:
            abandon_pictures(messages)
            raise

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _uri_for(self, max_image_tokens: int, scope: str) -> Encode:
        def uri(part: ImagePart) -> str:
            most_tokens = min(max_image_tokens, part.most_tokens or max_image_tokens)
            key = (scope, _content_of(part), most_tokens)
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            made = _data_uri(part.image, most_tokens * TOKEN_PIXELS)
            with self._lock:
                if key not in self._kept:
                    self._kept[key] = made
                    self._kept_bytes += len(made)
                while self._kept_bytes > KEPT_BYTES:
                    self._kept_bytes -= len(self._kept.popitem(last=False)[1])
            return made

        return uri


def request_of(
    messages: Sequence[Message], params: SamplingParams, uri: Encode, cache_salt: str
) -> dict[str, Any]:
    """`uri` gives the data: URI of a picture; `cache_salt` (vLLM's) parts scopes in its caches."""
    fields = _sampling_fields(params)
    extras = {name: value for name, value in fields.items() if name in _EXTRAS}
    more = {} if params.constraint is None else wire_fields(params.constraint)
    if "structured_outputs" in more:
        extras["structured_outputs"] = more.pop("structured_outputs")
    if cache_salt:
        extras["cache_salt"] = cache_salt
    if messages[-1].role == "assistant":  # vLLM's and SGLang's way to go on with an answer
        extras |= {"continue_final_message": True, "add_generation_prompt": False}
    if params.tools is not None:
        more |= {"tools": params.tools.objects, "tool_choice": params.tools.choice}
        if not params.tools.parallel:
            more["parallel_tool_calls"] = False
    if params.logprobs is not None:
        more |= {"logprobs": True, "top_logprobs": params.logprobs}
    if is_raw(messages):
        asked: dict[str, Any] = {"prompt": messages[0].text}
        if more.pop("logprobs", False):  # here it is a number
            more["logprobs"] = more.pop("top_logprobs")
    else:
        asked = {"messages": [_message(message, uri) for message in without_pairs(messages)]}
    return {
        **asked,
        "stream": True,
        "stream_options": {"include_usage": True},
        **{name: value for name, value in fields.items() if name in _OPENAI},
        **more,
        "extra_body": extras,
    }


def _sampling_fields(params: SamplingParams) -> dict[str, Any]:
    """The fields by their names on the wire, without those that ask for nothing."""
    values = {name: getattr(params, name) for name in FIELDS}
    values["stop"] = list(params.stop)
    values["logit_bias"] = {str(token): bias for token, bias in params.logit_bias}
    asked = {name: value for name, value in values.items() if value not in (None, [], {})}
    # Templates are told by servers' own argument for it: vLLM's, which SGLang and llama.cpp have.
    template = {name: asked.pop(name) for name in _TEMPLATE_ARGUMENTS if name in asked}
    told = {wire_names(name)[-1]: value for name, value in asked.items()}
    return {**told, "chat_template_kwargs": template} if template else told


def texts_of(request: dict[str, Any]) -> list[str]:
    """Everything that the user wrote."""
    texts = [*request.get("stop", ()), request.get("prompt", "")]
    for message in request.get("messages", ()):
        content = message["content"]
        parts = [{"text": content}] if isinstance(content, str) else content
        texts += [part["text"] for part in parts if "text" in part]
    return texts


def without(request: dict[str, Any], refused: set[str]) -> dict[str, Any]:
    """The request except the fields that a server refuses."""
    left = {name: value for name, value in request.items() if name not in refused}
    extra = {name: v for name, v in request["extra_body"].items() if name not in refused}
    return {**left, "extra_body": extra}


def _message(message: Message, uri: Encode) -> dict[str, Any]:
    told: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.role == "tool":
        told["tool_call_id"] = message.call_id
    if message.calls:
        told["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.calls
        ]
    if not message.images:
        return {**told, "reasoning_content": message.thought} if message.thought else told
    content: list[dict[str, Any]] = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            if part.time_s is not None:
                content.append({"type": "text", "text": f"<{part.time_s:.1f} seconds>"})
            address = {"url": uri(part), **({"detail": "low"} if part.most_tokens else {})}
            content.append({"type": "image_url", "image_url": address})
        else:
            content.append({"type": "text", "text": part.text})
    return {**told, "content": content}


def _content_of(part: ImagePart) -> str:
    """The same for equal pictures."""
    if not isinstance(part.source, Image.Image):
        return part.source.key
    return content_hash(part.source)


def _data_uri(image: Image.Image, most_pixels: int) -> str:
    share = (most_pixels / (image.width * image.height)) ** 0.5
    if share < 1:
        size = (max(1, int(image.width * share)), max(1, int(image.height * share)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    kind = "PNG" if image.width * image.height <= PNG_PIXELS else "JPEG"
    file = BytesIO()
    image.save(file, kind, quality=92)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
