"""The value of Gradio's Chatbot, as its handlers receive it -> the one inside shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qwen_vl.config import Settings
from qwen_vl.conversation import (
    check_chars,
    check_conversation,
    check_image_count,
    check_message_count,
)
from qwen_vl.media.pictures import open_image
from qwen_vl.schema import ImagePart, Message, Part, Role, TextPart, Undecoded

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
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
    check_message_count(max(len(turns), len(blocks)) // PARTS_PER_MESSAGE, settings)
    check_image_count(sum(_is_file(block) for block in blocks), settings)
    chars = len(system_prompt) + sum(len(_chatbot_text(block)) for block in blocks)
    check_chars(chars, settings)
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
    check_message_count(len(grouped), settings)
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
