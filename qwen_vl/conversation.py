"""What a conversation must be before a model answers it: its order, and all counts in limits."""

from __future__ import annotations

from collections.abc import Sequence

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, TooLarge
from qwen_vl.sampling import check_unicode
from qwen_vl.schema import Message, TextPart


def check_conversation(messages: Sequence[Message], settings: Settings) -> None:
    """Raises BadRequest or TooLarge unless a model can answer `messages` within the limits."""
    if not messages:
        raise BadRequest("The conversation is empty: send at least one user message.")
    if messages[-1].role == "system":
        raise BadRequest("The last message must come from the user, or be an answer to go on with.")
    if any(message.role == "system" for message in messages[1:]):
        raise BadRequest("Only the first message may be a system message: move it to the front.")
    parts = [part for message in messages for part in message.parts]
    chars = sum(len(part.text) for part in parts if isinstance(part, TextPart))
    chars += sum(len(message.thought) for message in messages)
    calls = [call for message in messages for call in message.calls]
    chars += sum(len(call.name) + len(call.arguments) for call in calls)
    check_chars(chars, settings)  # before any text is joined
    if messages[-1].calls:
        raise BadRequest("The last message calls tools: add their results.")
    last = messages[-1]  # a tool may have nothing to say
    if last.role != "tool" and not (last.text.strip() or last.images):
        raise BadRequest("The last message is empty: write a question or add a picture.")
    if any(message.role not in ("user", "tool") and message.images for message in messages):
        raise BadRequest("Pictures can only be part of user messages and of tools' results.")
    check_message_count(len(messages), settings)
    check_image_count(sum(len(message.images) for message in messages), settings)
    for message in messages:
        check_unicode(message.text, "The text")
        check_unicode(message.thought, "The thought")
    for call in calls:
        check_unicode(call.name + call.arguments, "A tool call")


def check_message_count(messages: int, settings: Settings) -> None:
    if messages > settings.max_messages:
        raise TooLarge(
            f"{messages} messages are more than the limit of {settings.max_messages}: "
            "start a new conversation."
        )


def check_chars(chars: int, settings: Settings) -> None:
    if chars > settings.max_prompt_chars:
        raise TooLarge(
            f"{chars:,} characters are more than the limit of {settings.max_prompt_chars:,}: "
            "shorten the text or start a new conversation."
        )


def check_image_count(images: int, settings: Settings) -> None:
    if images > settings.max_images:
        raise TooLarge(
            f"{images} pictures are more than the limit of {settings.max_images}: "
            "use fewer pictures or frames, or start a new conversation."
        )
