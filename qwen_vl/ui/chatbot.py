"""The value of Gradio's Chatbot, as its handlers receive it -> the one inside shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
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
from qwen_vl.ui.history import is_page_turn, thought_of

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
    `metadata` title are the page's own (statistics, notes) and not part of the conversation. A
    thought goes with the answer that follows it.
    Everything is counted before the first file is opened, in time linear in the history.
    """
    history = list(history)
    turns = [turn for turn in history if not is_page_turn(turn)]
    thoughts = {id(turn): thought_of(before) for before, turn in pairwise(history)}
    blocks = [block for turn in turns for block in _blocks(turn["content"])]
    check_message_count(max(len(turns), len(blocks)) // PARTS_PER_MESSAGE, settings)
    check_image_count(sum(_is_file(block) for block in blocks), settings)
    chars = len(system_prompt) + sum(len(_chatbot_text(block)) for block in blocks)
    chars += sum(map(len, thoughts.values()))
    check_chars(chars, settings)
    grouped: list[tuple[Role, list[Any], str]] = []
    if system_prompt.strip():
        grouped.append(("system", [system_prompt], ""))
    asked = False  # whether the last message is a question in words
    for turn in turns:
        role, content = _ROLES[turn["role"]], _blocks(turn["content"])
        if not grouped or grouped[-1][0] != role:
            grouped.append((role, list(content), thoughts.get(id(turn), "")))
            asked = False
        else:
            # Pictures and text sent together, or a question never answered and the next one.
            grouped[-1][1].extend(["\n\n", *content] if asked and role == "user" else content)
        asked = asked or any(_chatbot_text(block).strip() for block in content)
    check_message_count(len(grouped), settings)
    reader = open_picture or partial(open_image, settings=settings)
    messages = [
        Message(
            role,
            tuple(part for block in content for part in _chatbot_parts(block, reader)),
            thought,
        )
        for role, content, thought in grouped
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
