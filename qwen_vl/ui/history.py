"""The Chatbot's value as a list of turns: how it is built, cut back and edited.

Knows the shape of Gradio's messages and nothing else: plain lists in, new plain lists out. The
user's pictures are one turn and the text is the next, because Gradio's editor takes turns of text
alone. A turn with a metadata title is the page's own (statistics, notes) and is never sent to the
model. A thought is one, too: it goes along with its answer, and the chat template may show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from mimetypes import guess_type
from pathlib import Path
from typing import Any

from qwen_vl.errors import BadRequest
from qwen_vl.ui.markup import as_typed, from_page

Turn = dict[str, Any]

THOUGHT = "thought"  # the metadata's id of such turns


def text_block(text: str) -> dict[str, str]:
    """A text block. A bare string would lose its indentation inside Gradio."""
    return {"type": "text", "text": text}


def file_block(path: str) -> dict[str, Any]:
    """A file block. The page shows it as a picture by its type."""
    return {"type": "file", "file": {"path": path, "mime_type": guess_type(path, strict=False)[0]}}


def user_turns(text: str, files: Sequence[str]) -> list[Turn]:
    """What the user sends at once: a turn of pictures, then one of text; either may be missing.

    The text is shown as it was typed; `take_back` gives it back so.
    """
    turns: list[Turn] = []
    if files:
        turns.append({"role": "user", "content": [file_block(path) for path in files]})
    if text.strip():
        turns.append({"role": "user", "content": [text_block(as_typed(text))]})
    return turns


def answer_turn(text: str) -> Turn:
    return {"role": "assistant", "content": [text_block(text)]}


def page_turn(title: str, content: Sequence[dict[str, Any]] = (), **metadata: Any) -> Turn:
    """A turn of the page's own: shown under the answer, kept out of the conversation."""
    return {
        "role": "assistant",
        "content": list(content) or [text_block("")],
        "metadata": {"title": title, **metadata},
    }


def thought_turn(title: str, thought: str, *, is_over: bool) -> Turn:
    """What the model thought before its answer: a block that folds as soon as that begins."""
    status = "done" if is_over else "pending"
    return page_turn(title, [text_block(thought)], status=status, id=THOUGHT)


def thought_of(turn: Mapping[str, Any]) -> str:
    """The thought that a turn shows; "" for other turns."""
    is_thought = (turn.get("metadata") or {}).get("id") == THOUGHT
    return from_page(text_of(turn)) if is_thought else ""


def is_page_turn(turn: Mapping[str, Any]) -> bool:
    return bool((turn.get("metadata") or {}).get("title"))


def text_of(turn: Mapping[str, Any]) -> str:
    content = turn["content"]
    blocks = [content] if isinstance(content, (str, dict)) else content
    texts = (block if isinstance(block, str) else block.get("text", "") for block in blocks)
    return "".join(text or "" for text in texts)


def files_of(turn: Turn) -> list[str]:
    content = turn["content"]
    if isinstance(content, str):
        return []
    blocks = [content] if isinstance(content, dict) else content
    return [
        block["file"]["path"]
        for block in blocks
        if isinstance(block, dict) and block.get("type") == "file"
    ]


def has_files(history: Sequence[Turn]) -> bool:
    return any(files_of(turn) for turn in history if turn["role"] == "user")


def check_files(history: Sequence[Turn], folder: Path) -> None:
    """Raises BadRequest when a turn names a file outside `folder`, where uploads are kept.

    The history comes back from the browser, so a forged one could name any path.
    """
    for turn in history:
        check_paths(files_of(turn), folder)


def check_paths(paths: Sequence[str], folder: Path) -> None:
    root = folder.resolve()
    if not all(Path(path).resolve().is_relative_to(root) for path in paths):
        raise BadRequest("That file was not uploaded here: add it again.")


def _last_question(history: Sequence[Turn], index: int | None) -> tuple[int, int]:
    """Start and end (exclusive) of the question at or before `index`; (0, 0) without one."""
    end = len(history) if index is None else min(index + 1, len(history))
    while end and history[end - 1]["role"] != "user":
        end -= 1
    start = end
    while start and history[start - 1]["role"] == "user":
        start -= 1
    while start != end and end < len(history) and history[end]["role"] == "user":
        end += 1
    return start, end


def up_to_question(history: Sequence[Turn], index: int | None = None) -> list[Turn]:
    """For Retry: everything up to the question at or before `index`, without its answer."""
    return list(history[: _last_question(history, index)[1]])


def take_back(
    history: Sequence[Turn], index: int | None = None
) -> tuple[list[Turn], str, list[str]]:
    """For Undo: the history before the question, and the question's text and files."""
    start, end = _last_question(history, index)
    question = history[start:end]
    text = from_page("".join(text_of(turn) for turn in question))
    return list(history[:start]), text, [path for turn in question for path in files_of(turn)]


def with_text(history: Sequence[Turn], index: int, text: str) -> list[Turn]:
    """The history with this text in the place of what one turn says."""
    return [
        {**turn, "content": [text_block(text)]} if i == index else turn
        for i, turn in enumerate(history)
    ]


def with_edit(history: Sequence[Turn], index: int, text: str) -> list[Turn]:
    """For Edit: the history up to the edited question with its new text; its pictures stay.

    `text` is as the page's editor gives it.
    """
    start, end = _last_question(history, index)
    files = [path for turn in history[start:end] for path in files_of(turn)]
    return [*history[:start], *user_turns(from_page(text), files)]
