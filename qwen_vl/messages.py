"""Every outside shape of a conversation -> the one inside shape, with all counts checked.

Reads the OpenAI chat format (`from_openai`, `params_from`) and Gradio's Chatbot value
(`from_chatbot`). Knows nothing of servers, pages or models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qwen_vl.config import MIN_IMAGE_TOKENS, Settings
from qwen_vl.errors import BadRequest, TooLarge
from qwen_vl.media import open_data_uri, open_image
from qwen_vl.schema import ImagePart, Message, Part, Role, SamplingParams, TextPart, Undecoded

MAX_PARTS = 2000  # in all messages of a request together

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


def check_conversation(messages: Sequence[Message], settings: Settings) -> None:
    """Raises BadRequest or TooLarge unless a model can answer `messages` within the limits."""
    if not messages:
        raise BadRequest("The conversation is empty: send at least one user message.")
    if messages[-1].role != "user":
        raise BadRequest("The last message must come from the user.")
    if any(message.role == "system" for message in messages[1:]):
        raise BadRequest("Only the first message may be a system message: move it to the front.")
    parts = [part for message in messages for part in message.parts]
    chars = sum(len(part.text) for part in parts if isinstance(part, TextPart))
    _check_chars(chars, settings)  # before any text is joined
    if not messages[-1].parts or not (messages[-1].text.strip() or messages[-1].images):
        raise BadRequest("The last message is empty: write a question or add a picture.")
    if any(message.role != "user" and message.images for message in messages):
        raise BadRequest("Pictures can only be part of user messages.")
    _check_message_count(len(messages), settings)
    _check_image_count(sum(len(message.images) for message in messages), settings)
    for message in messages:
        _check_unicode(message.text, "The text")


def _check_message_count(messages: int, settings: Settings) -> None:
    if messages > settings.max_messages:
        raise TooLarge(
            f"{messages} messages are more than the limit of {settings.max_messages}: "
            "start a new conversation."
        )


def _check_chars(chars: int, settings: Settings) -> None:
    if chars > settings.max_prompt_chars:
        raise TooLarge(
            f"{chars:,} characters are more than the limit of {settings.max_prompt_chars:,}: "
            "shorten the text or start a new conversation."
        )


def _check_image_count(images: int, settings: Settings) -> None:
    if images > settings.max_images:
        raise TooLarge(
            f"{images} pictures are more than the limit of {settings.max_images}: "
            "use fewer pictures or frames, or start a new conversation."
        )


def _check_unicode(text: str, what: str) -> None:
    """JSON can carry half a surrogate pair, which no tokenizer and no other server takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{what} is not valid Unicode: half of a surrogate pair.") from None


# --- the OpenAI chat format ---


# Reads a part of another type: (the part, where it stands) -> parts of a message.
PartReader = Callable[[Mapping[str, Any], str], Sequence[Part]]


def from_openai(
    raw: Any, settings: Settings, others: Mapping[str, PartReader] | None = None
) -> list[Message]:
    """The `messages` field of a chat completion request -> messages.

    Source: the OpenAI API reference, "Create chat completion". Content is a string or a list of
    `text` and `image_url` parts; pictures are `data:` URIs. `others` reads further types of parts.
    """
    if not isinstance(raw, list):
        raise BadRequest("'messages' must be a list of {role, content} objects.")
    _check_message_count(len(raw), settings)
    contents = (item.get("content") for item in raw if isinstance(item, dict))
    parts = sum(len(content) for content in contents if isinstance(content, list))
    if parts > MAX_PARTS:
        raise TooLarge(f"{parts:,} parts are more than the limit of {MAX_PARTS:,}: join texts.")
    _check_image_count(_named_images(raw), settings)
    images = 0

    def read(part: Any, where: str) -> Sequence[Part]:
        nonlocal images
        parts = _openai_parts(part, where, settings, others or {})
        images += sum(isinstance(one, ImagePart) for one in parts)
        _check_image_count(images, settings)  # how many frames a clip has is known only now
        return parts

    messages = [_openai_message(item, f"messages[{i}]", read) for i, item in enumerate(raw)]
    check_conversation(messages, settings)
    return messages


def parts_in(raw: Any) -> list[dict[str, Any]]:
    """All parts of the `messages` field of a request that has not been checked yet."""
    if not isinstance(raw, list):
        return []
    contents = (item.get("content") for item in raw if isinstance(item, dict))
    return [
        part
        for content in contents
        if isinstance(content, list)
        for part in content
        if isinstance(part, dict)
    ]


def _named_images(raw: list[Any]) -> int:
    """How many pictures a request holds at least, before any is decoded."""
    parts = parts_in(raw)
    frames = (part.get("frames") for part in parts if part.get("type") == "video")
    clips = sum(part.get("type") in ("image_url", "video_url") for part in parts)
    return clips + sum(len(listed) for listed in frames if isinstance(listed, list))


def _openai_message(raw: Any, where: str, read: Callable[[Any, str], Sequence[Part]]) -> Message:
    if not isinstance(raw, Mapping):
        raise BadRequest(f"{where} must be an object with 'role' and 'content'.")
    role = _ROLES.get(str(raw.get("role")))
    if role is None:
        raise BadRequest(f"{where}.role must be one of {', '.join(_ROLES)}.")
    content = raw.get("content")
    if isinstance(content, str):
        return Message(role, (TextPart(content),))
    if content is None and role == "assistant":
        return Message(role, ())
    if not isinstance(content, list):
        raise BadRequest(f"{where}.content must be a string or a list of parts.")
    parts: list[Part] = []
    for i, part in enumerate(content):
        parts += read(part, f"{where}.content[{i}]")
    return Message(role, tuple(parts))


def _openai_parts(
    raw: Any, where: str, settings: Settings, others: Mapping[str, PartReader]
) -> Sequence[Part]:
    if not isinstance(raw, Mapping):
        raise BadRequest(f"{where} must be an object with a 'type'.")
    kind = raw.get("type")
    if kind == "text":
        if not isinstance(raw.get("text"), str):
            raise BadRequest(f"{where}.text must be a string.")
        return [TextPart(raw["text"])]
    if kind == "image_url":
        url = raw.get("image_url")
        if isinstance(url, Mapping):
            url = url.get("url")
        if not isinstance(url, str):
            raise BadRequest(f"{where}.image_url.url must be a string: a data: URI.")
        return [ImagePart(open_data_uri(url, settings))]
    if isinstance(kind, str) and kind in others:
        return others[kind](raw, where)
    known = ", ".join(["text", "image_url", *others])
    raise BadRequest(f"{where}.type must be one of {known}: nothing else is read here.")


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
    _check_unicode("".join(stops), "'stop'")
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


# --- Gradio's Chatbot ---

PARTS_PER_MESSAGE = 4  # on average: pictures and text are apart; a question may go unanswered

# Gives the picture of a file that the page keeps; opens it, decodes nothing.
PictureOpener = Callable[[Path], Undecoded]


def from_chatbot(
    history: Iterable[Mapping[str, Any]],
    system_prompt: str,
    settings: Settings,
    open_picture: PictureOpener | None = None,
) -> list[Message]:
    """A Chatbot value, as its handlers receive it, and a system prompt -> messages.

    Content is a list of `{"type": "text"}` and `{"type": "file"}` blocks. Messages with a
    `metadata` title are the page's own (statistics, notes) and not part of the conversation.
    Everything is counted before the first file is opened, in time linear in the history.
    """
    turns = [turn for turn in history if not (turn.get("metadata") or {}).get("title")]
    blocks = [block for turn in turns for block in _blocks(turn["content"])]
    _check_message_count(max(len(turns), len(blocks)) // PARTS_PER_MESSAGE, settings)
    _check_image_count(sum(_is_file(block) for block in blocks), settings)
    chars = len(system_prompt) + sum(len(_chatbot_text(block)) for block in blocks)
    _check_chars(chars, settings)
    grouped: list[tuple[Role, list[Any]]] = []
    if system_prompt.strip():
        grouped.append(("system", [system_prompt]))
    asked = False  # whether the last message is a question in words
    for turn in turns:
        role, content = _ROLES[turn["role"]], _blocks(turn["content"])
        if not grouped or grouped[-1][0] != role:
            grouped.append((role, list(content)))
            asked = False
        else:
            # Pictures and text sent together, or a question never answered and the next one.
            grouped[-1][1].extend(["\n\n", *content] if asked and role == "user" else content)
        asked = asked or any(_chatbot_text(block).strip() for block in content)
    _check_message_count(len(grouped), settings)
    reader = open_picture or partial(open_image, settings=settings)
    messages = [
        Message(role, tuple(part for block in content for part in _chatbot_parts(block, reader)))
        for role, content in grouped
    ]
    check_conversation(messages, settings)
    return messages


def _blocks(content: Any) -> Sequence[Any]:
    return [content] if isinstance(content, (str, Mapping)) else content


def _is_file(block: Any) -> bool:
    return not isinstance(block, str) and block.get("type") == "file"


def _chatbot_text(block: Any) -> str:
    return block if isinstance(block, str) else block.get("text") or ""


def _chatbot_parts(block: Any, open_picture: PictureOpener) -> Iterable[Part]:
    if _is_file(block):
        yield ImagePart(open_picture(Path(block["file"]["path"])))
    elif isinstance(block, str) or block.get("type") == "text":
        yield TextPart(_chatbot_text(block))
